//! A queue is an argument of a child under every start method. Without libtest's threads, which a fork refuses.

use mp_process::{Process, StartMethod};
use mp_queue::{JoinableQueue, Queue};

fn answer(questions: Queue<u64>, answers: JoinableQueue<u64>) {
    for question in &questions {
        answers.put(2 * question.unwrap()).unwrap();
    }
}

fn main() {
    mp_process::init();
    for method in StartMethod::all() {
        let (questions, answers) = (Queue::new().unwrap(), JoinableQueue::new().unwrap());
        let child = Process::new(answer, (questions.clone(), answers.clone()))
            .start_method(method)
            .start()
            .unwrap();
        questions.put(21).unwrap();
        assert_eq!(answers.get().unwrap(), 42, "{method}");
        answers.task_done().unwrap();
        questions.close();
        child.join().unwrap();
        answers.join().unwrap();
        eprintln!("{method}: ok");
    }
    a_forked_child_leaves_its_parents_claims_alone();
    a_forked_child_says_of_its_own_task_that_it_is_done();
}

fn a_forked_child_leaves_its_parents_claims_alone() {
    let tasks = JoinableQueue::new().unwrap();
    tasks.put(1).unwrap();
    tasks.get().unwrap();
    let copy = tasks.clone();
    let child = Process::fork(move || drop(copy)).start().unwrap();
    child.join().unwrap();
    assert_eq!(tasks.unfinished(), 1);
    assert!(tasks.take_lost().unwrap().is_empty(), "the parent lives");
    tasks.task_done().unwrap();
    tasks.join().unwrap();
}

fn a_forked_child_says_of_its_own_task_that_it_is_done() {
    let tasks = JoinableQueue::new().unwrap();
    tasks.put_many([1, 2, 3]).unwrap();
    tasks.get().unwrap();
    let copy = tasks.clone();
    let child = Process::fork(move || {
        let task = copy.get().unwrap();
        copy.task_done().unwrap();
        task
    });
    assert_eq!(child.start().unwrap().join().unwrap(), 2);
    assert_eq!(tasks.unfinished(), 2);
    assert!(tasks.take_lost().unwrap().is_empty(), "it was done");
    assert_eq!(tasks.get().unwrap(), 3);
    tasks.task_done().unwrap();
    tasks.task_done().unwrap();
    tasks.join().unwrap();
}
