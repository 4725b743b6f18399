//! Ends on a tokio runtime, with a blocking peer in another process or on the same runtime.

use std::{sync::Arc, time::Duration};

use mp_core::testing::Watchdog;
use mp_pipe::{Bytes, Connection, RecvError, SendError, Sender, duplex, simplex};
use mp_process::Process;
use tokio::{task::JoinSet, time::timeout};

mp_process::init_in_tests!();

const LONG: Duration = Duration::from_secs(30);

fn double(conn: Connection<u64, u64>) {
    for n in &conn {
        conn.send(&(2 * n.unwrap())).unwrap();
    }
}

#[tokio::test]
async fn a_blocking_child_is_awaited() {
    let _dog = Watchdog::secs(60);
    let (conn, there) = duplex::<u64, u64>().unwrap();
    let child = Process::new(double, (there,)).start().unwrap();
    let conn = conn.into_async().unwrap();
    for n in 0..100 {
        conn.send(&n).await.unwrap();
        assert_eq!(conn.recv().await.unwrap(), 2 * n);
    }
    drop(conn);
    child.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_share_an_end_and_messages_stay_whole() {
    let _dog = Watchdog::secs(60);
    let (rx, tx) = simplex::<Bytes>().unwrap();
    let (rx, tx) = (
        Arc::new(rx.into_async().unwrap()),
        Arc::new(tx.into_async().unwrap()),
    );
    let mut senders = JoinSet::new();
    for task in 0..4_u8 {
        let tx = tx.clone();
        senders.spawn(async move {
            for n in 0..100 {
                let len = [1, 100, 30_000, 400_000][n % 4];
                tx.send(&Bytes::from(vec![task; len])).await.unwrap();
            }
        });
    }
    drop(tx);
    let mut receivers = JoinSet::new();
    for _ in 0..3 {
        let rx = rx.clone();
        receivers.spawn(async move {
            let mut count = 0;
            loop {
                match rx.recv().await {
                    Ok(message) => {
                        assert!(message.iter().all(|&byte| byte == message[0]));
                        count += 1;
                    }
                    Err(RecvError::Disconnected) => return count,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    senders.join_all().await;
    assert_eq!(receivers.join_all().await.iter().sum::<u32>(), 400);
}

#[tokio::test]
async fn a_receive_that_is_given_up_loses_nothing() {
    let _dog = Watchdog::secs(60);
    let (rx, tx) = simplex::<String>().unwrap();
    let rx = rx.into_async().unwrap();
    let early = timeout(Duration::from_millis(10), rx.recv()).await;
    assert!(early.is_err());
    tx.send(&"late".to_owned()).unwrap();
    tx.send(&"later".to_owned()).unwrap();
    assert_eq!(timeout(LONG, rx.recv()).await.unwrap().unwrap(), "late");
    let rx = rx.into_inner(); // with "later" read ahead
    assert_eq!(rx.recv().unwrap(), "later");
}

#[tokio::test]
async fn a_send_that_is_given_up_ends_the_direction_and_tears_no_message() {
    let _dog = Watchdog::secs(60);
    let (rx, tx) = simplex::<()>().unwrap();
    let tx = tx.into_async().unwrap();
    let large = vec![7; 64 << 20];
    let early = timeout(Duration::from_millis(20), tx.send_bytes(&large)).await;
    assert!(early.is_err());
    assert!(matches!(
        tx.send_bytes(b"x").await,
        Err(SendError::Disconnected)
    ));
    assert!(matches!(rx.recv_bytes(), Err(RecvError::EndOfFile)));
}

#[tokio::test]
async fn handles_travel_over_an_awaited_end() {
    let _dog = Watchdog::secs(60);
    let (carrier_rx, carrier) = simplex::<Sender<u8>>().unwrap();
    let (carrier_rx, carrier) = (
        carrier_rx.into_async().unwrap(),
        carrier.into_async().unwrap(),
    );
    let (rx, tx) = simplex::<u8>().unwrap();
    carrier.send(&tx).await.unwrap();
    assert!(matches!(tx.send(&1), Err(SendError::Moved)));
    carrier_rx.recv().await.unwrap().send(&9).unwrap();
    assert_eq!(rx.into_async().unwrap().recv().await.unwrap(), 9);
}
