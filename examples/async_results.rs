//! Results can be awaited under any runtime; the one here has a dozen lines.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use mp::{Pool, PoolHandle, TaskError};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn sum(from: u64, to: u64) -> u64 {
    (from..to).sum()
}

async fn add_up(pool: &PoolHandle) -> Result<u64, TaskError> {
    let low = pool.apply_async(sum, (0, 500_000)); // both run from here on
    let high = pool.apply_async(sum, (500_000, 1_000_000));
    Ok(low.await? + high.await?)
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let pool = Pool::new(2)?;
    println!("the sum is {}", block_on(add_up(&pool))?);
    let squares = block_on(pool.map_async(|x: u64| x * x, 0..5))?;
    println!("{squares:?}");
    let crash = pool.apply_async(|_: u64| -> u64 { std::process::abort() }, (0,));
    println!("{}", block_on(crash).unwrap_err());
    Ok(())
}
