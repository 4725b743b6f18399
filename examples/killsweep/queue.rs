//! Producers and consumers of one queue; one after the other is killed and replaced.

use std::{
    sync::atomic::Ordering::{Relaxed, SeqCst},
    thread,
    time::Duration,
};

use mp::{Bytes, Process, Queue, StartMethod, queue::Claimed};

use crate::{
    board::{BYTES, Board},
    report::{Options, Random, Report, Watch, join},
};

const PRODUCERS: usize = 3;
const CONSUMERS: usize = 3;
/// Short enough that producers wait for room, and consumers for items, again and again.
const BOUND: usize = 64;
const LONGEST: u64 = 600;

/// Producer, its incarnation, the item's count, payload, checksum of all of them.
type Item = (u64, u64, u64, Bytes, u64);

// Counters on the board.
const STOP: usize = 0;
const DELIVERED: usize = 1;
const DOUBLED: usize = 2;
const TORN: usize = 3;
/// Found when the next item that shares the byte comes.
const MISSING: usize = 4;
const ACKED: usize = 5; // and one more for each producer

struct Team {
    queue: Queue<Item>,
    board: Board,
    members: Vec<Process>,
    incarnation: u64,
    method: StartMethod,
}

pub(crate) fn sweep(options: &Options) -> Result<Report, mp::Error> {
    let mut team = Team::start(options.method)?;
    let mut random = Random(options.seed);
    let (mut report, mut watch) = (Report::default(), Watch::new());
    while report.kills < options.kills && report.hangs == 0 {
        thread::sleep(Duration::from_micros(random.below(1500)));
        team.replace(random.below((PRODUCERS + CONSUMERS) as u64) as usize)?;
        report.in_hand += team.note_lost()?;
        report.kills += 1;
        report.hangs += u64::from(watch.is_stuck(team.board.counter(DELIVERED)));
    }
    if report.hangs == 0 {
        report.committed = team.finish(&mut report)?;
        team.account(&mut report);
    }
    report.worst_stall = watch.worst();
    Ok(report)
}

impl Team {
    fn start(method: StartMethod) -> Result<Self, mp::Error> {
        let mut team = Self {
            queue: Queue::bounded(BOUND)?,
            board: Board::new(ACKED + PRODUCERS)?,
            members: Vec::new(),
            incarnation: 0,
            method,
        };
        for role in 0..PRODUCERS + CONSUMERS {
            let member = team.member(role)?;
            team.members.push(member);
        }
        Ok(team)
    }

    fn member(&self, role: usize) -> Result<Process, mp::Error> {
        let (queue, board) = (self.queue.clone(), self.board.clone());
        let process = if role < PRODUCERS {
            Process::new(produce, (queue, board, role, self.incarnation))
        } else {
            Process::new(consume, (queue, board))
        };
        // Daemons: whatever goes wrong, they end with this process.
        Ok(process.daemon(true).start_method(self.method).start()?)
    }

    fn replace(&mut self, role: usize) -> Result<(), mp::Error> {
        self.members[role].kill()?;
        self.members[role].wait()?;
        self.incarnation += 1;
        self.members[role] = self.member(role)?;
        Ok(())
    }

    /// Items that were in a killed consumer's hand and not delivered.
    fn note_lost(&self) -> Result<u64, mp::Error> {
        let mut in_hand = 0;
        for lost in self.queue.take_lost()? {
            // Killed between delivery and the end of its claim, it had delivered it.
            if self.board.byte(lost.number).load(SeqCst) != Board::tag(lost.number) {
                deliver(&self.board, lost.number);
                in_hand += 1;
            }
        }
        Ok(in_hand)
    }

    /// Lets everybody finish; how many items there were.
    fn finish(&mut self, report: &mut Report) -> Result<u64, mp::Error> {
        self.board.counter(STOP).store(1, SeqCst);
        let consumers = self.members.split_off(PRODUCERS);
        for producer in self.members.drain(..) {
            join(producer, report)?;
        }
        // The last item tells how many came before it.
        let committed = self.queue.put_numbered(item(u64::MAX, 0, 0))? + 1;
        self.queue.close();
        for consumer in consumers {
            join(consumer, report)?;
        }
        Ok(committed)
    }

    fn account(&self, report: &mut Report) {
        let count = |counter| self.board.counter(counter).load(SeqCst);
        let acked: u64 = (0..PRODUCERS).map(|p| count(ACKED + p)).sum();
        let missing_now = (0..report.committed)
            .rev()
            .take(BYTES as usize)
            .filter(|n| self.board.byte(*n).load(SeqCst) != Board::tag(*n))
            .count() as u64;
        let missing = count(MISSING) + missing_now;
        // A put that returned, of which there is no trace.
        let uncommitted = (acked + 1).saturating_sub(report.committed);
        report.lost = missing + uncommitted;
        report.doubled = count(DOUBLED);
        report.torn = count(TORN);
    }
}

fn produce(queue: Queue<Item>, board: Board, producer: usize, incarnation: u64) {
    let mut count = 0;
    while board.counter(STOP).load(Relaxed) == 0 {
        queue
            .put(item(producer as u64, incarnation, count))
            .unwrap();
        board.counter(ACKED + producer).fetch_add(1, SeqCst);
        count += 1;
    }
}

fn consume(queue: Queue<Item>, board: Board) {
    loop {
        let claimed = match queue.get_claimed() {
            Ok(claimed) => claimed,
            Err(mp::GetError::Closed) => return,
            Err(_) => {
                board.counter(TORN).fetch_add(1, SeqCst);
                continue;
            }
        };
        let (producer, incarnation, count, _, _) = *claimed;
        if *claimed != item(producer, incarnation, count) {
            board.counter(TORN).fetch_add(1, SeqCst);
        }
        deliver(&board, Claimed::number(&claimed));
    }
}

/// One store decides that the item was delivered; what is wrong is counted before it.
fn deliver(board: &Board, number: u64) {
    let (tag, before) = (Board::tag(number), board.byte(number).load(SeqCst));
    if before == tag {
        board.counter(DOUBLED).fetch_add(1, SeqCst);
    } else if before != Board::previous_tag(number) {
        board.counter(MISSING).fetch_add(1, SeqCst);
    }
    board.byte(number).store(tag, SeqCst);
    board.counter(DELIVERED).fetch_add(1, Relaxed);
}

/// The item of these numbers: its payload and its checksum follow from them.
fn item(producer: u64, incarnation: u64, count: u64) -> Item {
    let mut random = Random(producer ^ incarnation.rotate_left(20) ^ count.rotate_left(40));
    let len = random.below(LONGEST) as usize;
    let mut payload = Vec::with_capacity(len + 8);
    while payload.len() < len {
        payload.extend(random.next().to_le_bytes());
    }
    payload.truncate(len);
    (producer, incarnation, count, payload.into(), random.next())
}
