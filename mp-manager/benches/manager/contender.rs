//! One client of each kind, in this process or in several of its own.

use std::time::Instant;

use mp_manager::Dict;
use mp_pipe::Connection;
use mp_process::Process;
use serde::{Deserialize, Serialize};

use crate::{
    echo::{Echo, EchoClient},
    redis::RedisClient,
};

/// Calls in one measurement.
const CALLS: usize = 20_000;
/// Keys of one call that asks for many.
const MANY: usize = 100;

/// What a client does, as it is told to a process.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Load {
    Echo(Echo),
    GetSet(Dict<String, u64>),
    GetMany(Dict<String, u64>),
    Redis(String),
}

/// A client that is connected.
pub(crate) enum Contender {
    Echo(EchoClient),
    GetSet(Dict<String, u64>),
    GetMany(Dict<String, u64>),
    Redis(RedisClient),
}

impl Contender {
    pub(crate) fn connect(load: &Load) -> Self {
        match load {
            Load::Echo(echo) => Self::Echo(EchoClient::connect(echo)),
            Load::GetSet(dict) => Self::GetSet(dict.clone()),
            Load::GetMany(dict) => Self::GetMany(dict.clone()),
            Load::Redis(path) => Self::Redis(RedisClient::connect(path)),
        }
    }

    /// Reads, one message there and one back.
    pub(crate) fn call_once(&mut self) {
        match self {
            Self::Echo(echo) => echo.call(),
            Self::GetSet(dict) => assert!(dict.get("key").unwrap().is_some()),
            Self::GetMany(dict) => assert_eq!(dict.get_many(["key"; MANY]).unwrap().len(), MANY),
            Self::Redis(redis) => redis.get(),
        }
    }

    fn set(&mut self) {
        match self {
            Self::GetSet(dict) => dict.set("key", &7).unwrap(),
            Self::Redis(redis) => redis.set(),
            Self::Echo(_) | Self::GetMany(_) => self.call_once(),
        }
    }

    /// So many reads and writes, in turn.
    pub(crate) fn call(&mut self, calls: usize) {
        let per_message = match self {
            Self::GetMany(_) => MANY,
            _ => 1,
        };
        for _ in 0..calls / per_message / 2 {
            self.set();
            self.call_once();
        }
    }

    /// Seconds of one call.
    pub(crate) fn per_call(&mut self) -> f64 {
        let begin = Instant::now();
        self.call(CALLS);
        begin.elapsed().as_secs_f64() / CALLS as f64
    }
}

/// Calls per second of so many processes together.
pub(crate) fn crowd(load: &Load, clients: usize) -> f64 {
    let started: Vec<_> = (0..clients)
        .map(|_| {
            let (here, there) = mp_pipe::duplex::<(), ()>().unwrap();
            let child = Process::new(client, (load.clone(), there)).start().unwrap();
            (here, child)
        })
        .collect();
    for (gate, _) in &started {
        gate.recv().unwrap();
    }
    for (gate, _) in &started {
        gate.send(&()).unwrap();
    }
    started
        .into_iter()
        .map(|(_, child)| 1.0 / child.join().unwrap())
        .sum()
}

/// Seconds of one call, once the gate is open.
fn client(load: Load, gate: Connection<(), ()>) -> f64 {
    let mut contender = Contender::connect(&load);
    contender.call(2_000);
    gate.send(&()).unwrap();
    gate.recv().unwrap();
    contender.per_call()
}
