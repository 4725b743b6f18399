//! Nothing stays behind: no descriptor, thread, process, socket or directory.

use mp_core::testing::{Census, Watchdog};
use mp_manager::{Dict, List, Manager};
use mp_process::Process;
use nix::sys::signal::{Signal, kill};

mp_process::init_in_tests!();

fn fill(dict: Dict<u32, List<u32>>, list: List<u32>) {
    for n in 0..10 {
        dict.insert(n, list.clone()).unwrap();
    }
}

fn use_it(manager: &Manager) {
    let dict = manager.dict().unwrap();
    let list = manager.list_from(0..10).unwrap();
    let child = Process::new(fill, (dict.clone(), list.clone()))
        .start()
        .unwrap();
    child.join().unwrap();
    let queue = manager.queue::<u32>().unwrap();
    std::thread::scope(|scope| {
        // More connections than one.
        for _ in 0..5 {
            scope.spawn(|| queue.get().unwrap());
        }
        queue.put_many(0..5).unwrap();
    });
    assert_eq!(dict.get(&3).unwrap().unwrap(), list);
}

#[test]
fn a_manager_leaves_nothing_behind() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let manager = Manager::start().unwrap();
    use_it(&manager);
    drop(manager);
}

#[test]
fn a_killed_server_leaves_nothing_behind() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let manager = Manager::start().unwrap();
    use_it(&manager);
    let server = manager.process().unwrap().pid();
    kill(nix::unistd::Pid::from_raw(server as i32), Signal::SIGKILL).unwrap();
    assert!(manager.join(std::time::Duration::from_secs(20)).unwrap());
    drop(manager);
}

#[test]
fn a_server_in_this_process_leaves_nothing_behind() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let server = Manager::builder().server().unwrap();
    let (address, key) = (server.address().clone(), server.authkey());
    let handle = server.handle();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| server.serve());
        use_it(&Manager::connect(&address, key).unwrap());
        handle.stop();
        serving.join().unwrap().unwrap();
    });
    drop(handle);
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let _census = Census::take();
    let _dog = Watchdog::secs(60);
    let failed = Manager::builder().setup(|_| std::process::exit(3)).start();
    assert!(failed.is_err());
}
