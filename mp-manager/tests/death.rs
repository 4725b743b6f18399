//! Clients and servers that die, hang, or do not keep to the protocol; the others notice nothing.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    time::{Duration, Instant},
};

use mp_core::{
    deadline::Deadline,
    duplex::{CAPACITY, Duplex, Want},
    fd,
    testing::Watchdog,
};
use mp_manager::{
    Address, AuthKey, Barrier, CallError, Client, Dict, Event, List, Lock, LockError, Manager,
    Queue, Semaphore, managed,
};
use mp_pipe::{Connection, Sender, simplex};
use mp_process::Process;
use nix::{
    libc,
    sys::signal::{Signal, kill},
};

mp_process::init_in_tests!();

managed! {
    /// A method that never returns.
    trait Loop => LoopProxy {
        /// Tells that it runs, and goes on until the server ends.
        fn spin(&self, running: Event);
    }
}

struct Looping;

impl Loop for Looping {
    fn spin(&self, running: Event) {
        running.set().unwrap();
        loop {
            std::hint::spin_loop();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn start() -> (Watchdog, Manager) {
    let manager = Manager::builder()
        .setup(|registry| LoopProxy::register(registry, |()| Looping))
        .start()
        .unwrap();
    (Watchdog::secs(120), manager)
}

fn pid(manager: &Manager) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(manager.process().unwrap().pid() as i32)
}

/// Descriptors of the server.
fn descriptors(manager: &Manager) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", pid(manager)))
        .unwrap()
        .count()
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn hold_everything(address: Address, lock: Lock, seats: Semaphore, ready: Sender<()>) {
    let client = Client::connect(&address, mp_core::authkey::current()).unwrap();
    let own: List<List<u8>> = client.list().unwrap();
    own.push(client.list_from([1, 2, 3]).unwrap()).unwrap();
    let _dict: Dict<u8, u8> = client.dict().unwrap();
    // Told to the last killed client's successor, this one.
    let _guard = match lock.lock() {
        Ok(guard) => guard,
        Err(LockError::OwnerDied(died)) => died.into_guard(),
        Err(error) => panic!("{error}"),
    };
    let _seat = seats.acquire().unwrap();
    ready.send(&()).unwrap();
    loop {
        std::thread::park();
    }
}

/// `MP_KILLS=1000 cargo test -p mp-manager --test death killed` is the long form.
#[test]
fn killed_clients_leave_nothing_behind() {
    let kills: u32 = std::env::var("MP_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(25);
    let _dog = Watchdog::secs(60 + u64::from(kills));
    let manager = Manager::start().unwrap();
    let lock = manager.lock().unwrap();
    let seats = manager.semaphore(1).unwrap();
    let objects = manager.number_of_objects().unwrap();
    let before = descriptors(&manager);
    let mut slowest = Duration::ZERO;
    for _ in 0..kills {
        let (ready, told) = simplex().unwrap();
        let args = (manager.address().clone(), lock.clone(), seats.clone(), told);
        let child = Process::new(hold_everything, args).start().unwrap();
        ready.recv().unwrap();
        assert!(manager.number_of_objects().unwrap() >= objects + 3);
        child.kill().unwrap();
        let killed = Instant::now();
        assert!(matches!(lock.lock(), Err(LockError::OwnerDied(_))));
        slowest = slowest.max(killed.elapsed());
        drop(seats.acquire().unwrap());
        child.wait().unwrap();
    }
    eventually("the objects of the dead are gone", || {
        manager.number_of_objects().unwrap() == objects
    });
    eventually("their connections are closed", || {
        descriptors(&manager) <= before
    });
    eprintln!("{kills} kills; the next owner was told after at most {slowest:?}");
    assert!(
        slowest < Duration::from_secs(5),
        "{slowest:?}; 100 ms is the promise"
    );
    assert_eq!(seats.available().unwrap(), 1);
    drop(lock.lock().map_err(|error| match error {
        LockError::OwnerDied(died) => drop(died.into_guard()),
        error => panic!("{error}"),
    }));
}

#[test]
fn every_call_in_flight_learns_that_the_server_died() {
    let (_dog, manager) = start();
    let queue = manager.queue::<u32>().unwrap();
    let barrier = manager.barrier(1000).unwrap();
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..100)
            .map(|n| {
                let (queue, barrier): (&Queue<u32>, &Barrier) = (&queue, &barrier);
                scope.spawn(move || {
                    if n % 2 == 0 {
                        format!("{:?}", queue.get().unwrap_err())
                    } else {
                        format!("{:?}", barrier.wait().unwrap_err())
                    }
                })
            })
            .collect();
        eventually("all calls are there", || {
            let texts: Vec<_> = manager
                .debug_info()
                .unwrap()
                .list
                .into_iter()
                .map(|object| object.text)
                .collect();
            texts.iter().any(|text| text.contains("50 getting"))
                && texts.iter().any(|text| text.contains("50 of 1000"))
        });
        kill(pid(&manager), Signal::SIGKILL).unwrap();
        for call in calls {
            let error = call.join().unwrap();
            assert!(error.contains("ServerDied"), "{error}");
        }
    });
    assert!(matches!(queue.len(), Err(CallError::ServerDied { .. })));
    assert!(matches!(
        manager.list::<u8>(),
        Err(CallError::ServerDied { .. })
    ));
    let Address::Unix(path) = manager.address().clone() else {
        panic!("not a path");
    };
    manager.shutdown().unwrap();
    assert_eq!(manager.exit_status().unwrap().exitcode(), Some(-9));
    assert!(!path.exists() && !path.parent().unwrap().exists());
}

fn spin(looping: LoopProxy, running: Event, lock: Lock) {
    std::mem::forget(lock.lock().unwrap());
    let _ = looping.spin(running);
}

#[test]
fn a_method_that_never_returns_holds_up_nobody() {
    let (_dog, manager) = start();
    let looping: LoopProxy = manager.create(&()).unwrap();
    let (running, lock) = (manager.event().unwrap(), manager.lock().unwrap());
    let args = (looping.clone(), running.clone(), lock.clone());
    let child = Process::new(spin, args).start().unwrap();
    running.wait().unwrap();
    let dict = manager.dict::<u32, u32>().unwrap();
    for n in 0..100 {
        dict.insert(n, n).unwrap();
    }
    // Its client dies; the thread that serves it does not see that, and the lock is free all the same.
    child.kill().unwrap();
    assert!(matches!(lock.lock(), Err(LockError::OwnerDied(_))));
    child.wait().unwrap();
    assert_eq!(dict.len().unwrap(), 100);
}

/// A connection that has proved the key, and says what it likes.
fn stranger(client: &Client) -> Connection<(), ()> {
    mp_pipe::Client::new()
        .authkey(client.authkey())
        .connect(client.address())
        .unwrap()
}

/// Whether the server has closed the connection, or does so in that time.
fn is_closed(connection: &Connection<(), ()>, timeout: Duration) -> bool {
    let until = Deadline::after(timeout);
    fd::poll_one(connection.as_fd(), libc::POLLRDHUP, Some(until)).unwrap()
}

#[test]
fn who_begins_a_greeting_is_not_waited_for_until_its_end() {
    let (_dog, manager) = start();
    let slow = stranger(&manager);
    send_raw(&slow, &[0]);
    assert!(is_closed(&slow, Duration::from_secs(30)));
}

fn greet_slowly(address: Address, key: Vec<u8>, begun: Sender<()>) -> bool {
    let key = AuthKey::new(key);
    let client = mp_pipe::Client::new().authkey(key);
    let slow: Connection<(), ()> = client.connect(&address).unwrap();
    send_raw(&slow, &[0]);
    begun.send(&()).unwrap();
    is_closed(&slow, Duration::from_secs(30))
}

#[test]
fn a_server_that_has_stopped_greets_nobody() {
    let _dog = Watchdog::secs(60);
    let server = Manager::builder().server().unwrap();
    let (handle, own) = (server.handle(), server.client());
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve());
        let (told, begun) = simplex().unwrap();
        let args = (
            own.address().clone(),
            own.authkey().as_bytes().to_vec(),
            begun,
        );
        let child = Process::new(greet_slowly, args).start().unwrap();
        told.recv().unwrap();
        handle.stop();
        serving.join().unwrap().unwrap();
        assert!(child.join().unwrap());
    });
}

/// The same, with a session of its own.
fn wild_client(manager: &Manager) -> Connection<(), ()> {
    let connection = stranger(manager);
    // Magic, version, no session, some pid, no memory.
    connection.send_bytes(b"mp-m\x03\x00\x07\x00").unwrap();
    assert_eq!(connection.recv_bytes().unwrap()[0], 0, "not welcome");
    connection
}

/// The same, whose frames go through shared memory.
struct WildNeighbour {
    connection: Connection<(), ()>,
    memory: Duplex,
    /// The shared memory once more, to damage it.
    file: File,
}

fn wild_neighbour(manager: &Manager) -> WildNeighbour {
    let connection = stranger(manager);
    connection.send_bytes(b"mp-m\x03\x00\x07\x01").unwrap();
    let (mut welcome, mut fds) = ([0; 256], Vec::new());
    fd::recv(
        connection.as_fd(),
        &mut welcome,
        &mut fds,
        fd::Mode::Blocking,
    )
    .unwrap();
    assert_eq!(welcome[4], 0, "not welcome");
    let file = File::from(fds.pop().expect("memory comes with the welcome"));
    let memory = Duplex::attach(file.try_clone().unwrap().into()).unwrap();
    WildNeighbour {
        connection,
        memory,
        file,
    }
}

impl WildNeighbour {
    /// Writes what there is room for; how much that was.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let written = self.memory.write(bytes).unwrap();
        if self.memory.wake(Want::Bytes) {
            send_raw(&self.connection, &[0]);
        }
        written
    }
}

/// As they stand in `protocol::Request`.
mod request {
    pub(super) const CREATE: u8 = 2;
    pub(super) const FIND: u8 = 8;
    pub(super) const INFO: u8 = 9;
    pub(super) const SHUTDOWN: u8 = 10;
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let (_dog, manager) = start();
    let deaf = wild_client(&manager);
    let mut sent = 0;
    // Until the answers fill both sockets, and then the requests.
    while deaf
        .send_bytes_timeout(&[request::INFO, 1], Duration::from_millis(100))
        .is_ok()
    {
        sent += 1;
        assert!(sent < 10_000_000, "the server keeps answers without end");
    }
    let begin = Instant::now();
    let dict = manager.dict::<u32, u32>().unwrap();
    for n in 0..100 {
        dict.insert(n, n).unwrap();
    }
    assert_eq!(dict.len().unwrap(), 100);
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert_eq!(manager.debug_info().unwrap().clients.len(), 2);
    drop(deaf);
    eventually("the client is given up", || {
        manager.debug_info().unwrap().clients.len() == 1
    });
}

#[test]
fn a_neighbour_that_does_not_read_its_memory_holds_up_nobody() {
    let (_dog, manager) = start();
    let mut deaf = wild_neighbour(&manager);
    let frames = [0, 0, 0, 2, request::INFO, 1].repeat(10_000);
    let (mut at, mut last) = (0, Instant::now());
    // Until the answers fill their ring, and then the requests theirs.
    while last.elapsed() < Duration::from_millis(300) {
        match deaf.write(&frames[at..]) {
            0 => std::thread::yield_now(),
            written => (at, last) = ((at + written) % frames.len(), Instant::now()),
        }
    }
    assert!(!deaf.memory.is_ready(Want::Room));
    let dict = manager.dict::<u32, u32>().unwrap();
    for n in 0..100 {
        dict.insert(n, n).unwrap();
    }
    assert_eq!(manager.debug_info().unwrap().clients.len(), 2);
    drop(deaf);
    eventually("the client is given up", || {
        manager.debug_info().unwrap().clients.len() == 1
    });
}

#[test]
fn a_neighbour_that_damages_its_memory_ends_its_own_connection() {
    /// Where its words lie: `mp_core::duplex::Side`, the second.
    const WRITTEN: u64 = 3 * 128;
    const READ: u64 = 4 * 128;
    let (_dog, manager) = start();
    let list = manager.list_from([1]).unwrap();
    for nonsense in [u64::MAX, 1 << 63, CAPACITY as u64 + 1] {
        let wild = wild_neighbour(&manager);
        wild.file
            .write_all_at(&nonsense.to_ne_bytes(), WRITTEN)
            .unwrap();
        send_raw(&wild.connection, &[0]); // it looks
        assert!(wild.connection.recv_bytes().unwrap_err().is_final());
    }
    for nonsense in [1_u64 << 63, 1 << 40] {
        // The server looks at it when its answers do not fit any more.
        let mut wild = wild_neighbour(&manager);
        wild.file
            .write_all_at(&nonsense.to_ne_bytes(), READ)
            .unwrap();
        let frames = [0, 0, 0, 2, request::INFO, 1].repeat(CAPACITY / 6);
        wild.write(&frames);
        eventually("it is given up", || {
            manager.debug_info().unwrap().clients.len() == 1
        });
    }
    // Frames are checked as those of a socket are.
    let mut wild = wild_neighbour(&manager);
    wild.write(b"\x7f\xff\xff\xff");
    assert!(wild.connection.recv_bytes().unwrap_err().is_final());
    // Bells without a message are looked at, and nothing else.
    let wild = wild_neighbour(&manager);
    send_raw(&wild.connection, &[0; 10_000]);
    assert_eq!(list.to_vec().unwrap(), [1]);
    assert_eq!(manager.debug_info().unwrap().clients.len(), 2);
    drop(wild);
    eventually("all are gone", || {
        manager.debug_info().unwrap().clients.len() == 1
    });
}

#[test]
fn what_is_no_request_ends_its_own_connection() {
    let (_dog, manager) = start();
    let list = manager.list_from([1]).unwrap();
    let before = descriptors(&manager);
    // Before hello: garbage, a pickle, another version, a foreign session.
    for hello in [
        &b"garbage"[..],
        b"\x80\x05(K\x01.",
        b"mp-m\x03\x01\x09\x07\x00",
        b"",
        b"mp-m\x03\x00\x07\x00 and more",
    ] {
        let connection = stranger(&manager);
        connection.send_bytes(hello).unwrap();
        match connection.recv_bytes() {
            Ok(denied) => assert_eq!(denied[0], 1, "{hello:?} was welcome"),
            Err(error) => assert!(error.is_final(), "{error}"),
        }
    }
    let other = stranger(&manager);
    other.send_bytes(b"mp-m\x04\x00\x07\x00").unwrap();
    assert_eq!(
        other.recv_bytes().unwrap()[0],
        1,
        "another version is told so"
    );
    // After it: no request, an unknown one, one that ends too early, lengths beyond all bounds.
    for request in [
        &[0xff_u8, 0xff, 0xff][..],
        &[200],
        &[0],
        &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[request::CREATE, 200, b'x'],
        &[],
    ] {
        let connection = wild_client(&manager);
        connection.send_bytes(request).unwrap();
        let error = connection.recv_bytes().unwrap_err();
        assert!(error.is_final(), "{request:?}: {error}");
    }
    // Headers that announce too much, or nothing sensible.
    for header in [
        &b"\x7f\xff\xff\xff"[..],
        b"\x80\0\0\0",
        b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
        b"\x01\0\0\x01",
    ] {
        let connection = wild_client(&manager);
        send_raw(&connection, header);
        assert!(connection.recv_bytes().unwrap_err().is_final());
    }
    // Half a frame, and gone.
    let connection = wild_client(&manager);
    send_raw(&connection, b"\0\0\x10\0 half");
    drop(connection);
    assert_eq!(list.to_vec().unwrap(), [1]);
    assert_eq!(manager.number_of_objects().unwrap(), 1);
    eventually("their connections are closed", || {
        descriptors(&manager) <= before
    });
    eventually("their sessions are over", || {
        manager.debug_info().unwrap().clients.len() == 1
    });
}

fn send_raw(connection: &Connection<(), ()>, bytes: &[u8]) {
    use std::io::Write;
    let socket = connection.as_fd().try_clone_to_owned().unwrap();
    std::os::unix::net::UnixStream::from(socket)
        .write_all(bytes)
        .unwrap();
}

#[test]
fn a_client_that_is_gone_leaves_no_line() {
    let (_dog, manager) = start();
    let queue = manager.queue::<u32>().unwrap();
    manager.share("queue", &queue).unwrap();
    let wild = wild_client(&manager);
    let mut find = vec![request::FIND];
    mp_core::codec::encode_into("queue", &mut find).unwrap();
    wild.send_bytes(&find).unwrap();
    let found: (u8, String, u64) = mp_core::codec::decode(&wild.recv_bytes().unwrap()).unwrap();
    // Several calls that wait, one behind the other in one connection, and gone.
    let mut get = Vec::new();
    mp_core::codec::encode_into(&(0_u8, found.2, 0_u32, "get", None::<u64>), &mut get).unwrap();
    for _ in 0..3 {
        wild.send_bytes(&get).unwrap();
    }
    let getting = |count: usize| {
        let text = format!("{count} getting");
        let list = manager.debug_info().unwrap().list;
        list.iter().any(|object| object.text.contains(&text))
    };
    eventually("it waits", || getting(1));
    drop(wild);
    eventually("it is gone", || {
        getting(0) && manager.debug_info().unwrap().clients.len() == 1
    });
    queue.put(7).unwrap();
    assert_eq!(queue.get_timeout(Duration::from_secs(20)).unwrap(), 7);
}

#[test]
fn unknown_objects_types_and_foreign_references_are_faults() {
    let (_dog, manager) = start();
    let list = manager.list_from([1]).unwrap();
    let id = mp_manager::Managed::proxy(&list).id();
    let connection = wild_client(&manager);
    let call = |object: u64, method: &str| {
        let mut bytes = Vec::new();
        let request = (0_u8, object, 0_u32, method);
        mp_core::codec::encode_into(&request, &mut bytes).unwrap();
        connection.send_bytes(&bytes).unwrap();
        String::from_utf8_lossy(&connection.recv_bytes().unwrap()).into_owned()
    };
    // Nobody's, and one that this client has no reference to.
    assert!(call(7, "len").contains("object 0000000000000007"));
    assert!(call(id, "len").contains("object"));
    let create = |kind: &str| {
        let mut bytes = Vec::new();
        mp_core::codec::encode_into(&(request::CREATE, kind), &mut bytes).unwrap();
        connection.send_bytes(&bytes).unwrap();
        connection.recv_bytes().unwrap()
    };
    assert!(String::from_utf8_lossy(&create("Bomb")).contains("type `Bomb`"));
    // Knowing the key is not enough to end the server.
    connection.send_bytes(&[request::SHUTDOWN, 7]).unwrap();
    let denied = connection.recv_bytes().unwrap();
    assert!(String::from_utf8_lossy(&denied).contains("only who started"));
    let made = create("List");
    assert_ne!(made[0], 1, "a fault; but the connection lives on");
    let (_, own): (u8, u64) = mp_core::codec::decode(&made).unwrap();
    assert!(call(own, "explode").contains("method `explode`"));
    drop(connection);
    eventually("its list is gone", || {
        manager.number_of_objects().unwrap() == 1
    });
}

fn keep_calling(dict: Dict<u32, u32>, ready: Sender<()>) {
    ready.send(&()).unwrap();
    for n in 0.. {
        dict.insert(n % 10, n).unwrap();
    }
}

#[test]
fn a_stopped_client_holds_up_nobody() {
    let (_dog, manager) = start();
    let dict = manager.dict::<u32, u32>().unwrap();
    let (ready, told) = simplex().unwrap();
    let child = Process::new(keep_calling, (dict.clone(), told))
        .start()
        .unwrap();
    ready.recv().unwrap();
    let child_pid = nix::unistd::Pid::from_raw(child.pid() as i32);
    for _ in 0..20 {
        kill(child_pid, Signal::SIGSTOP).unwrap();
        for n in 10..30 {
            dict.insert(n, n).unwrap();
        }
        kill(child_pid, Signal::SIGCONT).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(dict.len().unwrap() >= 20);
}

fn start_and_wait(told: Sender<u32>) {
    let manager = Manager::start().unwrap();
    told.send(&manager.process().unwrap().pid()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_server_does_not_outlive_who_started_it() {
    let _dog = Watchdog::secs(60);
    let (server, told) = simplex().unwrap();
    let child = Process::new(start_and_wait, (told,)).start().unwrap();
    let server = server.recv().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // A zombie of somebody else's counts as gone.
    eventually("the server has ended", || {
        std::fs::read_to_string(format!("/proc/{server}/stat"))
            .map_or(true, |stat| stat.contains(") Z "))
    });
    remove_socket_of(server);
}

/// The kernel kills a server with its program, so nobody is left to do it.
fn remove_socket_of(server: u32) {
    let prefix = format!("mp-{server}-");
    let names = std::fs::read_dir(std::env::temp_dir()).unwrap();
    let left = names.filter_map(|entry| {
        let entry = entry.unwrap();
        let is_its = entry.file_name().to_string_lossy().starts_with(&prefix);
        is_its.then(|| entry.path())
    });
    left.for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
}

#[test]
fn ctrl_c_leaves_the_server_alone() {
    let (_dog, manager) = start();
    let value = manager.value(&1).unwrap();
    for _ in 0..3 {
        kill(pid(&manager), Signal::SIGINT).unwrap();
        value.update(|n| n + 1).unwrap();
    }
    assert_eq!(value.get().unwrap(), 4);
    manager.shutdown().unwrap();
    assert_eq!(manager.exit_status().unwrap().exitcode(), Some(0));
}

fn start_and_exit(told: Sender<u32>) {
    let manager = Manager::start().unwrap();
    told.send(&manager.process().unwrap().pid()).unwrap();
    std::mem::forget(manager);
}

#[test]
fn a_forgotten_manager_is_shut_down_at_exit() {
    let _dog = Watchdog::secs(60);
    let (server, told) = simplex().unwrap();
    let child = Process::new(start_and_exit, (told,)).start().unwrap();
    let server = server.recv().unwrap();
    child.join().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{server}")).exists());
}
