//! A live view of a managed dict: players score at the same time, one of them is killed, and the
//! board shows it as it happens.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use mp::{Dict, Manager, Process, manager::Barrier};

/// Scores at random until it has 100 points.
fn play(name: String, scores: Dict<String, u32>, start: Barrier) {
    let mut random = fastrand::Rng::new();
    start.wait().expect("all players are there");
    loop {
        let points = random.u32(1..=10);
        let total = scores
            .update(name.clone(), 0, |score| score + points)
            .expect("the board is up");
        if total >= 100 {
            return;
        }
        std::thread::sleep(Duration::from_millis(random.u64(10..60)));
    }
}

fn show(scores: &[(String, u32)], terminal: bool) {
    if terminal {
        print!("\x1b[{}A", scores.len());
    }
    for (name, score) in scores {
        let bar = "█".repeat((*score as usize).min(100) / 4);
        println!("{name:<8} {score:>4} {bar:<25}");
    }
    let _ = std::io::stdout().flush();
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let names = ["ann", "bob", "cleo", "dan"];
    let manager = Manager::start()?;
    let scores = manager.dict_from(names.map(|name| (name.to_owned(), 0)))?;
    let start = manager.barrier(names.len() as u32)?;
    let players: Vec<_> = names
        .iter()
        .map(|name| {
            let args = ((*name).to_owned(), scores.clone(), start.clone());
            Process::new(play, args).name(*name).start()
        })
        .collect::<Result<_, _>>()?;

    let terminal = std::io::stdout().is_terminal();
    if terminal {
        print!("{}", "\n".repeat(names.len()));
    }
    let mut out = false;
    while players.iter().any(Process::is_alive) {
        std::thread::sleep(Duration::from_millis(100));
        let board = scores.items()?;
        if terminal {
            show(&board, true);
        }
        // A rough game: the last one leaves it at half time. Nobody else is held up.
        if !out && board.iter().any(|(_, score)| *score >= 50) {
            players[3].kill()?;
            out = true;
        }
    }
    let mut board = scores.items()?;
    board.sort_by_key(|(_, score)| std::cmp::Reverse(*score));
    println!("final, {} was sent off:", names[3]);
    show(&board, false);
    assert!(
        board
            .iter()
            .filter(|(name, _)| name != names[3])
            .all(|(_, score)| *score >= 100)
    );
    Ok(())
}
