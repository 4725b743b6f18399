//! Handles and start methods go together in any combination.
//!
//! Not a harness with threads: `Fork` is one of the methods.

use std::io::Read;

use mp::{Fd, Lock, Process, Queue, StartMethod};

fn main() {
    // Made before `init`, and so also in the fork server: no child may be disturbed by it.
    let early = Lock::new().unwrap();
    mp::init();
    drop(early.lock().unwrap());
    nix::unistd::alarm::set(120); // a watchdog that is not a thread
    queues_go_to_children_of_every_method();
    a_lock_made_before_init_disturbs_no_child();
    a_grandchild_uses_a_queue_of_a_child_whose_input_was_replaced();
    println!("test result: ok. 3 passed");
}

/// Conformance: TestStartMethod.test_mixed_startmethod
///
/// Python refuses some of these.
fn queues_go_to_children_of_every_method() {
    fn put(queue: Queue<u32>, lock: Lock) {
        let _guard = lock.lock().unwrap();
        queue.put(42).unwrap();
    }
    fn make_and_pass(maker: StartMethod, user: StartMethod) {
        // Made in a child of one method, used in a child of the other.
        let queue = Process::new(
            |user: StartMethod| {
                let (queue, lock) = (Queue::new().unwrap(), Lock::new().unwrap());
                let child = Process::new(put, (queue.clone(), lock)).start_method(user);
                child.start().unwrap().join().unwrap();
                queue
            },
            (user,),
        );
        let queue = queue.start_method(maker).start().unwrap().join().unwrap();
        assert_eq!(queue.get().unwrap(), 42, "{maker}, {user}");
    }
    for maker in StartMethod::all() {
        for user in StartMethod::all() {
            make_and_pass(maker, user);
        }
    }
}

/// Conformance: TestStartMethod.test_preload_resources
fn a_lock_made_before_init_disturbs_no_child() {
    for method in StartMethod::all() {
        let (mut printed, out) = std::io::pipe().unwrap();
        let (mut complained, err) = std::io::pipe().unwrap();
        let child = Process::new(
            || {
                drop(Lock::new().unwrap().lock().unwrap());
                print!("it runs");
            },
            (),
        );
        let child = child.start_method(method).stdout(out).stderr(err);
        child.start().unwrap().join().unwrap();
        let mut text = String::new();
        printed.read_to_string(&mut text).unwrap();
        assert_eq!(text, "it runs", "{method}");
        text.clear();
        complained.read_to_string(&mut text).unwrap();
        assert_eq!(text, "", "{method}");
    }
}

/// Conformance: TestStdinBadfiledescriptor.test_queue_in_process
fn a_grandchild_uses_a_queue_of_a_child_whose_input_was_replaced() {
    fn child(input: Fd) -> String {
        nix::unistd::dup2_stdin(input).unwrap();
        let queue = Queue::new().unwrap();
        let put = |queue: Queue<String>| queue.put("through".to_owned()).unwrap();
        let grandchild = Process::new(put, (queue.clone(),)).start().unwrap();
        let text = queue.get().unwrap();
        grandchild.join().unwrap();
        text
    }
    for method in StartMethod::all() {
        let (input, _held) = std::io::pipe().unwrap();
        let input = std::os::fd::OwnedFd::from(input);
        let child = Process::new(child, (Fd::from(input),)).start_method(method);
        assert_eq!(
            child.start().unwrap().join().unwrap(),
            "through",
            "{method}"
        );
    }
}
