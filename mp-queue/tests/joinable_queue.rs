//! What a joinable queue promises between processes, and when they die.

use std::{os::fd::AsFd, time::Duration};

use mp_core::testing::{Census, Watchdog, eventually};
use mp_process::Process;
use mp_queue::{JoinError, JoinableQueue, Queue, TaskDoneError};

mp_process::init_in_tests!();

fn work(tasks: JoinableQueue<Option<u32>>) -> u32 {
    let mut done = 0;
    while let Some(_task) = tasks.get().unwrap() {
        done += 1;
        tasks.task_done().unwrap();
    }
    tasks.task_done().unwrap();
    done
}

/// Conformance: _TestQueue.test_task_done
#[test]
fn join_returns_when_workers_have_done_everything() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    let workers = [(); 4].map(|()| Process::new(work, (tasks.clone(),)).start().unwrap());
    (0..1000).for_each(|n| tasks.put(Some(n)).unwrap());
    tasks.join().unwrap();
    assert_eq!((tasks.unfinished(), tasks.len()), (0, 0));
    (0..4).for_each(|_| tasks.put(None).unwrap());
    let done: u32 = workers
        .into_iter()
        .map(|worker| worker.join().unwrap())
        .sum();
    assert_eq!(done, 1000);
    tasks.join().unwrap();
}

fn work_until_closed(tasks: JoinableQueue<u32>) -> u32 {
    tasks
        .iter()
        .map(|task| {
            let task = task.unwrap();
            tasks.task_done().unwrap();
            task
        })
        .sum()
}

#[test]
fn tasks_that_were_put_at_once_are_taken_one_by_one_until_the_queue_is_closed() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    tasks.put_many((0..1000).collect::<Vec<u32>>()).unwrap();
    assert_eq!(tasks.unfinished(), 1000);
    let workers = [(); 3].map(|()| {
        let worker = Process::new(work_until_closed, (tasks.clone(),));
        worker.start().unwrap()
    });
    tasks.join().unwrap();
    tasks.close();
    let sum: u32 = workers.into_iter().map(|w| w.join().unwrap()).sum();
    assert_eq!(sum, (0..1000).sum());
    let refused = tasks.put_many([1]).unwrap_err();
    assert_eq!((refused.put, tasks.unfinished()), (0, 0));
}

#[test]
fn more_done_than_put_is_an_error() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    assert_eq!(tasks.task_done(), Err(TaskDoneError::TooMany));
    tasks.put(1).unwrap();
    tasks.get().unwrap();
    tasks.task_done().unwrap();
    assert_eq!(tasks.task_done(), Err(TaskDoneError::TooMany));
    tasks.put(2).unwrap();
    assert_eq!(tasks.unfinished(), 1);
}

#[test]
fn join_waits_at_most_as_long_as_it_is_told() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    tasks.put(1).unwrap();
    let late = tasks.join_timeout(Duration::from_millis(20));
    assert!(matches!(late, Err(JoinError::TimedOut { unfinished: 1 })));
}

fn take_two_finish_one(tasks: JoinableQueue<u32>, ready: Queue<()>) {
    tasks.get().unwrap();
    tasks.get().unwrap();
    tasks.task_done().unwrap();
    ready.put(()).unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn tasks_of_the_dead_are_told_instead_of_waited_for() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (tasks, ready) = (JoinableQueue::new().unwrap(), Queue::new().unwrap());
    let numbers = [1, 2, 3].map(|n| tasks.put_numbered(n).unwrap());
    let worker = Process::new(take_two_finish_one, (tasks.clone(), ready.clone()))
        .start()
        .unwrap();
    ready.get().unwrap();
    assert_eq!(tasks.unfinished(), 2);
    let pid = worker.pid();
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert!(matches!(tasks.join(), Err(JoinError::Lost { tasks: 1 })));
    let lost = tasks.take_lost().unwrap();
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0].number, lost[0].pid), (numbers[1], pid));
    assert_eq!(tasks.unfinished(), 1);
    assert_eq!(tasks.get().unwrap(), 3);
    tasks.task_done().unwrap();
    tasks.join().unwrap();
}

/// A task that the dead had is not waited for, even by one that sleeps in `join` already.
#[test]
fn a_sleeping_join_learns_of_a_death() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let (tasks, ready) = (JoinableQueue::new().unwrap(), Queue::new().unwrap());
    tasks.put(1).unwrap();
    tasks.put(2).unwrap();
    let worker = Process::new(take_two_finish_one, (tasks.clone(), ready.clone()))
        .start()
        .unwrap();
    ready.get().unwrap();
    std::thread::scope(|scope| {
        let joiner = scope.spawn(|| tasks.join());
        worker.kill().unwrap();
        worker.wait().unwrap();
        assert!(matches!(
            joiner.join().unwrap(),
            Err(JoinError::Lost { tasks: 1 })
        ));
    });
}

fn take_and_panic(tasks: JoinableQueue<u32>) {
    let task = tasks.get().unwrap();
    panic!("with task {task} in hand");
}

fn take_and_return(tasks: JoinableQueue<u32>) -> u32 {
    tasks.get().unwrap()
}

#[test]
fn a_task_in_the_hand_of_a_worker_that_panics_or_returns_is_told_instead_of_waited_for() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    let first = tasks.put_numbered(1).unwrap();
    let panicking = Process::new(take_and_panic, (tasks.clone(),))
        .start()
        .unwrap();
    let mut pids = vec![panicking.pid()];
    assert!(panicking.join().is_err());
    let late = tasks.join_timeout(Duration::ZERO);
    assert!(
        matches!(late, Err(JoinError::Lost { tasks: 1 })),
        "{late:?}"
    );
    let second = tasks.put_numbered(2).unwrap();
    let returning = Process::new(take_and_return, (tasks.clone(),))
        .start()
        .unwrap();
    pids.push(returning.pid());
    assert_eq!(returning.join().unwrap(), 2);
    let late = tasks.join_timeout(Duration::ZERO);
    assert!(
        matches!(late, Err(JoinError::Lost { tasks: 2 })),
        "{late:?}"
    );
    let lost = tasks.take_lost().unwrap();
    let lost: Vec<_> = lost.iter().map(|lost| (lost.number, lost.pid)).collect();
    assert_eq!(lost, [(first, pids[0]), (second, pids[1])]);
    tasks.join().unwrap();
}

#[test]
fn a_task_stays_in_hand_while_any_clone_of_the_handle_is_left() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    tasks.put(1).unwrap();
    let clone = tasks.clone();
    std::thread::spawn(move || clone.get().unwrap())
        .join()
        .unwrap();
    assert!(tasks.take_lost().unwrap().is_empty());
    tasks.task_done().unwrap();
    tasks.join().unwrap();
}

fn another_handle(tasks: &JoinableQueue<u32>) -> JoinableQueue<u32> {
    JoinableQueue::from_fd(tasks.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

#[test]
fn a_task_is_lost_with_the_last_handle_that_could_say_it_is_done() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    tasks.put(1).unwrap();
    let other = another_handle(&tasks);
    other.get().unwrap();
    assert!(tasks.take_lost().unwrap().is_empty());
    drop(other);
    let late = tasks.join_timeout(Duration::ZERO);
    assert!(
        matches!(late, Err(JoinError::Lost { tasks: 1 })),
        "{late:?}"
    );
    assert_eq!(tasks.take_lost().unwrap().len(), 1);
    tasks.join().unwrap();
}

/// The count is common, so somebody else may have told of it.
#[test]
fn a_task_that_another_handle_said_is_done_is_not_lost() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    tasks.put(1).unwrap();
    let other = another_handle(&tasks);
    other.get().unwrap();
    tasks.task_done().unwrap();
    drop(other);
    tasks.put(2).unwrap();
    assert!(tasks.take_lost().unwrap().is_empty());
    assert_eq!(tasks.unfinished(), 1);
}

#[test]
fn a_task_that_another_handle_said_is_done_is_not_lost_while_others_are_open() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    tasks.put_many([1, 2]).unwrap();
    let other = another_handle(&tasks);
    other.get().unwrap();
    tasks.task_done().unwrap();
    drop(other);
    let late = tasks.join_timeout(Duration::ZERO);
    assert!(
        matches!(late, Err(JoinError::TimedOut { unfinished: 1 })),
        "{late:?}"
    );
    assert!(tasks.take_lost().unwrap().is_empty());
    assert_eq!(tasks.get().unwrap(), 2);
    tasks.task_done().unwrap();
    tasks.put(3).unwrap();
    let late = tasks.join_timeout(Duration::ZERO);
    assert!(
        matches!(late, Err(JoinError::TimedOut { unfinished: 1 })),
        "{late:?}"
    );
}

fn take_by_one_handle_and_finish_by_another(tasks: JoinableQueue<u32>) {
    let other = another_handle(&tasks);
    other.get().unwrap();
    other.get().unwrap();
    tasks.task_done().unwrap();
    other.task_done().unwrap();
}

#[test]
fn tasks_that_a_worker_finished_by_another_handle_are_not_lost_with_it() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    tasks.put_many([1, 2, 3]).unwrap();
    let worker = Process::new(take_by_one_handle_and_finish_by_another, (tasks.clone(),));
    worker.start().unwrap().join().unwrap();
    let late = tasks.join_timeout(Duration::ZERO);
    assert!(
        matches!(late, Err(JoinError::TimedOut { unfinished: 1 })),
        "{late:?}"
    );
    assert!(tasks.take_lost().unwrap().is_empty());
}

/// The handle that had it went first; then another one said that it is done.
#[test]
fn once_everything_is_done_nothing_from_before_is_lost() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    tasks.put(1).unwrap();
    let other = another_handle(&tasks);
    other.get().unwrap();
    drop(other);
    tasks.task_done().unwrap();
    tasks.put(2).unwrap();
    let late = tasks.join_timeout(Duration::ZERO);
    assert!(
        matches!(late, Err(JoinError::TimedOut { unfinished: 1 })),
        "{late:?}"
    );
    assert!(tasks.take_lost().unwrap().is_empty());
}

/// More than can be followed are still counted.
#[test]
fn thousands_of_tasks_may_be_in_hand() {
    let (_census, _dog) = (Census::take(), Watchdog::secs(60));
    let tasks = JoinableQueue::new().unwrap();
    const COUNT: u32 = 5000;
    (0..COUNT).for_each(|n| tasks.put(n).unwrap());
    (0..COUNT).for_each(|n| assert_eq!(tasks.get().unwrap(), n));
    assert_eq!(tasks.unfinished(), u64::from(COUNT));
    (0..COUNT).for_each(|_| tasks.task_done().unwrap());
    eventually(10, || tasks.join().is_ok());
    assert_eq!(tasks.task_done(), Err(TaskDoneError::TooMany));
}
