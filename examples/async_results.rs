//! Results can be awaited under any runtime; here it is tokio.

use std::time::Duration;

use mp::{Pool, PoolHandle, TaskError};
use tokio::{runtime, time};

fn sum(from: u64, to: u64) -> u64 {
    (from..to).sum()
}

fn sleep(millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis));
    millis
}

async fn add_up(pool: &PoolHandle) -> Result<u64, TaskError> {
    let low = pool.apply_async(sum, (0, 500_000)); // both run from here on
    let high = pool.apply_async(sum, (500_000, 1_000_000));
    Ok(low.await? + high.await?)
}

async fn run(pool: &PoolHandle) -> Result<(), TaskError> {
    println!("the sum is {}", add_up(pool).await?);
    println!("{:?}", pool.map_async(|x: u64| x * x, 0..5).await?);

    // A result can be given up and taken up again; the task goes on meanwhile.
    let mut slow = pool.apply_async(sleep, (300,));
    if time::timeout(Duration::from_millis(50), &mut slow)
        .await
        .is_err()
    {
        println!("{:?} after 50 ms", slow.state());
    }
    println!("it slept for {} ms", slow.await?);

    // Awaiting ends with the worker, too.
    let crash = pool.apply_async(|| -> u64 { std::process::abort() }, ());
    println!("{}", crash.await.unwrap_err());
    Ok(())
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let pool = Pool::new(2)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(run(&pool))?;
    Ok(())
}
