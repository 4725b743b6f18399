//! The way in for `fuzz/fuzz_targets/manager_request.rs`: a server without sockets.

use std::sync::Arc;

use mp_core::codec;

use crate::{
    protocol::{Fault, Reply, Request, split},
    referent::Caller,
    referents,
    registry::Registry,
    server::{
        dispatch,
        limits::Limits,
        peer::{Peer, Presence},
        state::State,
    },
    transport::Address,
};

/// Every method of every type of ours.
const METHODS: &[&str] = &[
    "abort",
    "accept",
    "acquire",
    "apply",
    "apply_async",
    "available",
    "cancel",
    "capacity",
    "clear",
    "close",
    "compare_exchange",
    "contains",
    "count",
    "drain",
    "extend",
    "fill",
    "forget",
    "get",
    "get_many",
    "get_or_insert",
    "index",
    "insert",
    "is_broken",
    "is_closed",
    "is_full",
    "is_locked",
    "is_set",
    "items",
    "join",
    "keys",
    "len",
    "map",
    "map_async",
    "name",
    "notify",
    "page",
    "parties",
    "permute",
    "copy",
    "pop",
    "pop_last",
    "push",
    "put",
    "put_many",
    "read",
    "read_many",
    "release",
    "remove",
    "remove_many",
    "remove_value",
    "repeat",
    "reset",
    "return",
    "reverse",
    "set",
    "swap",
    "task_done",
    "terminate",
    "truncate",
    "unfinished",
    "values",
    "wait",
    "waiting",
    "workers",
    "write",
    "write_many",
];

/// Arguments of constructors that are as they should be.
fn constructor_args(kind: &str) -> Vec<u8> {
    let mut args = Vec::new();
    let encoded = match kind {
        "Array" => codec::encode_into(&(5_usize, [7_u8].as_slice(), 0_u8), &mut args),
        "Barrier" | "Semaphore" | "BoundedSemaphore" => codec::encode_into(&2_u32, &mut args),
        "Condition" | "Queue" | "JoinableQueue" => codec::encode_into(&None::<u64>, &mut args),
        "Value" => codec::encode_into(&([7_u8].as_slice(), 0_u8), &mut args),
        _ => Ok(()),
    };
    encoded.expect("plain data");
    args
}

/// Feeds a server with what a client says: a sequence of frames, each led by its length in one
/// byte and by how to read it in another.
pub fn requests(mut bytes: &[u8]) {
    let state = State::new(
        Address::unix("nowhere"),
        Registry::new(),
        Limits {
            message: 64 << 10,
            ..Limits::default()
        },
    );
    let peer = Arc::new(Peer::new(1));
    let caller = Caller::client(peer.clone(), Presence::of_this_thread());
    let objects: Vec<u64> = referents::CONSTRUCTORS
        .iter()
        .map(|(kind, _)| {
            let slot = dispatch::create(&state, &caller, kind, &constructor_args(kind));
            let slot = slot.unwrap_or_else(|fault| panic!("{kind}: {fault:?}"));
            peer.grant(&slot).expect("the session goes on");
            slot.id()
        })
        .collect();
    let mut out = Vec::new();
    while let [len, how, rest @ ..] = bytes {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        bytes = rest;
        let frame = match (how, body) {
            // A known method of an object that is there, with any arguments.
            (1.., [method, args @ ..]) => {
                let mut frame = Vec::new();
                let request = Request::Call {
                    object: objects[usize::from(*how) % objects.len()],
                    signature: 0,
                    method: METHODS[usize::from(*method) % METHODS.len()],
                };
                codec::encode_into(&request, &mut frame).expect("protocol types have an encoding");
                frame.extend(args);
                frame
            }
            _ => body.to_vec(),
        };
        out.clear();
        if dispatch::handle(&state, &caller, &frame, &mut out).is_err() {
            break;
        }
        if let Some(answer) = out.get(4..) {
            let (reply, _) = split::<Reply>(answer).expect("an answer has a header");
            assert!(
                !matches!(reply, Reply::Fault(Fault::Panicked(_))),
                "{reply:?}"
            );
            assert!(answer.len() <= 64 << 10);
        }
    }
    // All that the client made and held goes with it.
    peer.end(&state);
    state.clear();
    assert_eq!(state.object_count(), 0);
}
