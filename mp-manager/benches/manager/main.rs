//! Calls on managed objects, beside a bare Unix socket that does the same in the same run.
//!
//! `cargo bench -p mp-manager [-- latency throughput peers]`. Each figure is the median of interleaved rounds. `python3` and
//! `redis-server`, where they are installed, are measured as well.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use mp_manager::{Dict, Event, Manager};
use mp_pipe::Connection;
use mp_process::Process;

const ROUNDS: usize = 9;

fn main() {
    mp_process::init();
    let manager = Manager::start().unwrap();
    let dict = manager.dict::<String, u64>().unwrap();
    dict.insert("key".to_owned(), 1).unwrap();

    let sections: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let wanted = |name: &str| sections.is_empty() || sections.iter().any(|wanted| wanted == name);
    if wanted("latency") {
        latency(&dict);
    }
    if wanted("throughput") {
        throughput(&manager, &dict);
    }
    if wanted("peers") {
        python();
        redis();
    }
}

/// One call at a time, from one client.
fn latency(dict: &Dict<String, u64>) {
    let mut floor = Echo::start();
    let mut rows = [
        ("bare socket, polled, 32 B", Vec::new()),
        ("get", Vec::new()),
        ("set", Vec::new()),
        ("update", Vec::new()),
    ];
    for _ in 0..ROUNDS {
        rows[0].1.push(per_call(20_000, || floor.hot()));
        rows[1].1.push(per_call(20_000, || {
            assert!(dict.get("key").unwrap().is_some())
        }));
        rows[2]
            .1
            .push(per_call(20_000, || dict.set("key", &7).unwrap()));
        rows[3].1.push(per_call(5_000, || {
            dict.update("key".to_owned(), 0, |n| n + 1).unwrap();
        }));
    }
    println!("one client, both sides awake, µs per call");
    print_rows(&mut rows);

    let mut rows = [("bare socket, 32 B", Vec::new()), ("get", Vec::new())];
    for _ in 0..ROUNDS {
        rows[0].1.push(asleep(|| floor.sleeping()));
        rows[1]
            .1
            .push(asleep(|| assert!(dict.get("key").unwrap().is_some())));
    }
    println!("one client, the server asleep, µs per call");
    print_rows(&mut rows);
}

/// Calls per second of several client processes.
fn throughput(manager: &Manager, dict: &Dict<String, u64>) {
    println!("several clients, thousand calls per second, all together");
    for clients in [1, 2, 4] {
        let mut single = Vec::new();
        let mut batched = Vec::new();
        for _ in 0..3 {
            single.push(run_clients(manager, dict, clients, false));
            batched.push(run_clients(manager, dict, clients, true));
        }
        println!(
            "  {clients} clients: get and set {:8.0}, get_many {:8.0}",
            median(&mut single),
            median(&mut batched)
        );
    }
}

const CALLS: usize = 40_000;

fn one_by_one(dict: &Dict<String, u64>) -> usize {
    for n in 0..CALLS / 2 {
        dict.set("key", &(n as u64)).unwrap();
        dict.get("key").unwrap();
    }
    CALLS
}

fn many_at_once(dict: &Dict<String, u64>) -> usize {
    let keys = ["key"; 100];
    for _ in 0..CALLS / 20 {
        dict.get_many(keys).unwrap();
    }
    CALLS / 20 * 100
}

fn run_clients(manager: &Manager, dict: &Dict<String, u64>, clients: usize, batched: bool) -> f64 {
    let go = manager.event().unwrap();
    let ready = manager.semaphore(0).unwrap();
    let children: Vec<_> = (0..clients)
        .map(|_| {
            let args = (dict.clone(), ready.clone(), go.clone(), batched);
            Process::new(client, args).start().unwrap()
        })
        .collect();
    for _ in 0..clients {
        ready.acquire().unwrap().forget().unwrap();
    }
    go.set().unwrap();
    let rates: Vec<f64> = children
        .into_iter()
        .map(|child| child.join().unwrap())
        .collect();
    rates.iter().sum::<f64>() / 1e3
}

fn client(dict: Dict<String, u64>, ready: mp_manager::Semaphore, go: Event, batched: bool) -> f64 {
    dict.get("key").unwrap();
    ready.release().unwrap();
    go.wait().unwrap();
    let begin = Instant::now();
    let calls = if batched {
        many_at_once(&dict)
    } else {
        one_by_one(&dict)
    };
    calls as f64 / begin.elapsed().as_secs_f64()
}

/// A process that sends back what it gets, over a bare Unix socket.
struct Echo {
    socket: UnixStream,
    _child: Process<()>,
}

impl Echo {
    fn start() -> Self {
        use std::os::fd::AsFd;
        let (here, there) = mp_pipe::duplex::<(), ()>().unwrap();
        let child = Process::new(echo, (there,)).daemon(true).start().unwrap();
        let socket = UnixStream::from(here.as_fd().try_clone_to_owned().unwrap());
        Self {
            socket,
            _child: child,
        }
    }

    fn hot(&mut self) {
        self.socket.write_all(&[1; 32]).unwrap();
        assert!(poll_exact(&mut self.socket, &mut [0; 32]));
    }

    fn sleeping(&mut self) {
        self.socket.write_all(&[0; 32]).unwrap();
        self.socket.read_exact(&mut [0; 32]).unwrap();
    }
}

/// Answers at once what begins with 1 by polling, else asleep.
fn echo(connection: Connection<(), ()>) {
    use std::os::fd::AsFd;
    let mut socket = UnixStream::from(connection.as_fd().try_clone_to_owned().unwrap());
    let mut message = [0; 32];
    while socket.read_exact(&mut message).is_ok() {
        socket.write_all(&message).unwrap();
        while message[0] == 1 && poll_exact(&mut socket, &mut message) {
            socket.write_all(&message).unwrap();
        }
    }
}

/// Looks for a message for 50 µs without sleeping, then sleeps for one.
fn poll_exact(socket: &mut UnixStream, message: &mut [u8]) -> bool {
    let until = Instant::now() + Duration::from_micros(50);
    socket.set_nonblocking(true).unwrap();
    let mut found = false;
    while Instant::now() < until {
        match socket.read(message) {
            Ok(0) => break,
            Ok(_) => {
                found = true;
                break;
            }
            Err(_) => std::thread::yield_now(),
        }
    }
    socket.set_nonblocking(false).unwrap();
    found || socket.read_exact(message).is_ok()
}

fn per_call(calls: u32, mut call: impl FnMut()) -> f64 {
    let begin = Instant::now();
    for _ in 0..calls {
        call();
    }
    begin.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

/// With a pause before each call that is long enough for the server to fall asleep.
fn asleep(mut call: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..100)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            per_call(1, &mut call)
        })
        .collect();
    median(&mut times)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_rows(rows: &mut [(&str, Vec<f64>)]) {
    let floor = median(&mut rows[0].1.clone());
    for (name, values) in rows {
        let value = median(values);
        println!(
            "  {name:<28} {value:8.2}   {:5.2} × the bare socket",
            value / floor
        );
    }
}

fn python() {
    let script = "import multiprocessing, time
m = multiprocessing.Manager()
d = m.dict()
d['key'] = 1
for name, call in ('get', lambda: d['key']), ('set', lambda: d.__setitem__('key', 7)):
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(2000): call()
        times.append((time.perf_counter() - begin) / 2000 * 1e6)
    print(f'  python {name:<21} {sorted(times)[2]:8.2f}')
";
    let run = std::process::Command::new("python3")
        .args(["-c", script])
        .output();
    match run {
        Ok(output) if output.status.success() => {
            println!("Python's multiprocessing.Manager, µs per call");
            print!("{}", String::from_utf8_lossy(&output.stdout));
        }
        _ => println!("skipped: python needs python3"),
    }
}

/// A string in Redis over a Unix socket: GET and SET, one at a time.
fn redis() {
    let directory = std::env::temp_dir().join(format!("mp-bench-redis-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("socket");
    let server = std::process::Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&path)
        .stdout(std::process::Stdio::null())
        .spawn();
    match server {
        Ok(mut server) => {
            let until = Instant::now() + Duration::from_secs(5);
            let mut socket = loop {
                match UnixStream::connect(&path) {
                    Ok(socket) => break Some(socket),
                    Err(_) if Instant::now() > until => break None,
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            };
            if let Some(socket) = &mut socket {
                let mut ask = |request: &[u8], answer: usize| {
                    socket.write_all(request).unwrap();
                    socket.read_exact(&mut vec![0; answer]).unwrap();
                };
                let set = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$1\r\n7\r\n";
                let get = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n";
                let sets = per_call(20_000, || ask(set, 5));
                let gets = per_call(20_000, || ask(get, 7));
                println!("Redis on a Unix socket, µs per call\n  GET {gets:8.2}\n  SET {sets:8.2}");
            }
            let _ = server.kill();
            let _ = server.wait();
        }
        Err(_) => println!("skipped: redis needs redis-server"),
    }
    let _ = std::fs::remove_dir_all(&directory);
}
