//! Round trips to a peer that has gone to sleep: nobody's spinning helps here.

use mp::{Connection, Manager, Pool, Process};
use mp_bench::{Context, WORKERS, after_pauses};

fn echo(connection: Connection<[u8; 16], [u8; 16]>) {
    for value in connection.iter() {
        connection
            .send(&value.expect("a value"))
            .expect("the peer reads");
    }
}

pub(crate) fn all(context: &Context) {
    pipe(context);
    apply(context);
    get(context);
}

fn pipe(context: &Context) {
    let (here, there) = mp::duplex().expect("a connection");
    let child = Process::new(echo, (there,)).start().expect("a child");
    let (us, n) = after_pauses(|| {
        here.send(&[1; 16]).expect("the echo reads");
        assert_eq!(here.recv().expect("the echo answers"), [1; 16]);
    });
    drop(here);
    child.join().expect("the echo ends well");
    context.report("pipe/16B", "us", us, n);
}

fn apply(context: &Context) {
    let pool = Pool::new(WORKERS).expect("a pool");
    let (us, n) = after_pauses(|| {
        assert_eq!(pool.apply(|x: u64| x + 1, (1,)).expect("a result"), 2);
    });
    context.report("apply", "us", us, n);
}

fn get(context: &Context) {
    let manager = Manager::start().expect("a server");
    let dict = manager.dict::<u64, u64>().expect("a dict");
    dict.insert(1, 2).expect("served");
    let (us, n) = after_pauses(|| {
        assert_eq!(dict.get(&1).expect("served"), Some(2));
    });
    context.report("manager get", "us", us, n);
}
