//! Both ways over one connection: a child that computes for its parent until the parent hangs up.
//!
//! `cargo run --example pipe_duplex` prints
//!
//! ```text
//! Add(1.5, 2.5) = Ok(4.0)
//! Sqrt(2.0) = Ok(1.4142135623730951)
//! Sqrt(-1.0) = Err("-1 has no square root")
//! ```

use mp::{Connection, Process};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Add(f64, f64),
    Sqrt(f64),
}

/// What the child answers with is another type than what it is asked with.
type Answer = Result<f64, String>;

fn calculator(conn: Connection<Answer, Request>) {
    for request in &conn {
        let answer = match request.expect("the parent sends requests") {
            Request::Add(a, b) => Ok(a + b),
            Request::Sqrt(x) if x < 0.0 => Err(format!("{x} has no square root")),
            Request::Sqrt(x) => Ok(x.sqrt()),
        };
        if conn.send(&answer).is_err() {
            return; // the parent does not want to know any more
        }
    }
}

fn main() -> Result<(), mp::Error> {
    mp::init();

    let (conn, there) = mp::duplex::<Request, Answer>()?;
    let child = Process::new(calculator, (there,)).start()?;
    for request in [
        Request::Add(1.5, 2.5),
        Request::Sqrt(2.0),
        Request::Sqrt(-1.0),
    ] {
        conn.send(&request)?;
        println!("{request:?} = {:?}", conn.recv()?);
    }

    // Dropping the connection ends the child's loop.
    drop(conn);
    child.join()?;
    Ok(())
}
