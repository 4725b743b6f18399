//! From a request to its answer.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use mp_core::codec;

use crate::{
    channel::{begin_frame, end_frame},
    passage,
    protocol::{self, Fault, Reply, Request},
    referent::{Call, Caller},
    server::{
        info,
        state::{Slot, State},
    },
};

/// What the channel has to do once the answer is in its buffer.
#[derive(Default)]
pub(crate) struct After {
    /// Run if the answer cannot be sent.
    pub(crate) unsent: Option<Box<dyn FnOnce() + Send>>,
    /// End the server after the answer.
    pub(crate) shutdown: bool,
}

/// Handles one frame of a client; its answer, if it has one, is appended to `out` as a frame.
///
/// # Errors
///
/// What no client of ours sends: the connection has to end.
pub(crate) fn handle(
    state: &Arc<State>,
    caller: &Caller,
    frame: &[u8],
    out: &mut Vec<u8>,
) -> Result<After, String> {
    let (request, rest) = protocol::split::<Request<'_>>(frame)?;
    let mut after = After::default();
    if let Request::Release { objects } = &request {
        if let Some(peer) = caller.peer() {
            for object in objects {
                peer.release(*object);
            }
        }
        return Ok(after);
    }
    let start = begin_frame(out);
    let result = answer(state, caller, &request, rest, out, &mut after);
    let result = result.and_then(|()| {
        let len = out.len() - start;
        let limit = state.limits.message;
        if len > limit {
            return Err(Fault::TooLarge {
                len: len as u64,
                limit: limit as u64,
            });
        }
        Ok(())
    });
    if let Err(fault) = result {
        out.truncate(start);
        begin_frame(out);
        encode(&Reply::Fault(shortened(fault)), out);
        if let Some(undo) = after.unsent.take() {
            undo();
        }
    }
    end_frame(out, start);
    Ok(after)
}

fn answer(
    state: &Arc<State>,
    caller: &Caller,
    request: &Request<'_>,
    rest: &[u8],
    out: &mut Vec<u8>,
    after: &mut After,
) -> Result<(), Fault> {
    encode(&Reply::Value, out);
    match *request {
        Request::Call {
            object,
            signature,
            method,
        } => {
            let slot = caller.object(state, object)?;
            let mut call = Call {
                state,
                caller,
                method,
                signature,
                args: rest,
                out,
                granted: Vec::new(),
                unsent: None,
            };
            let result = run(&slot, &mut call);
            let granted = std::mem::take(&mut call.granted);
            after.unsent = call.unsent.take();
            result?;
            for slot in &granted {
                grant(caller, slot)?;
            }
            Ok(())
        }
        Request::Release { .. } => Ok(()), // has no answer
        Request::Create { kind } => {
            let slot = create(state, caller, kind, rest)?;
            grant(caller, &slot)?;
            encode(&slot.id(), out);
            Ok(())
        }
        Request::Acquire { object } => {
            let slot = state.slot(object).ok_or_else(|| no_object(object))?;
            grant(caller, &slot)
        }
        Request::Issue { object } => {
            let slot = caller.object(state, object)?;
            encode(&state.issue(slot, caller.number()), out);
            Ok(())
        }
        Request::Redeem { object, ticket } => {
            let slot = state
                .redeem(object, ticket)
                .ok_or_else(|| no_object(object))?;
            grant(caller, &slot)
        }
        Request::Share {
            name,
            object,
            replace,
        } => {
            let slot = caller.object(state, object)?;
            state.share(name, slot, replace)
        }
        Request::Unshare { name } => {
            encode(&state.unshare(name), out);
            Ok(())
        }
        Request::Find { name } => {
            let slot = state
                .find(name)
                .ok_or_else(|| Fault::NotFound(format!("object named `{name}`")))?;
            grant(caller, &slot)?;
            encode(&(slot.kind().as_ref(), slot.id()), out);
            Ok(())
        }
        Request::Info { objects } => {
            encode(&info::collect(state, objects), out);
            Ok(())
        }
        Request::Shutdown { token } => {
            if state.shutdown_token.get() != Some(&token) {
                return Err(Fault::Denied(
                    "only who started the server can shut it down".to_owned(),
                ));
            }
            after.shutdown = true;
            Ok(())
        }
    }
}

/// Makes an object of a registered kind. `rest` are the constructor's arguments.
pub(crate) fn create(
    state: &Arc<State>,
    caller: &Caller,
    kind: &str,
    rest: &[u8],
) -> Result<Arc<Slot>, Fault> {
    let constructor = state
        .registry
        .constructor(kind)
        .ok_or_else(|| Fault::NotFound(format!("type `{kind}`; register it with the server")))?;
    let mut nothing = Vec::new();
    let call = Call {
        state,
        caller,
        method: "new",
        signature: 0,
        args: rest,
        out: &mut nothing,
        granted: Vec::new(),
        unsent: None,
    };
    let object = passage::hosted(state, || {
        catch_unwind(AssertUnwindSafe(|| constructor(&call)))
    })
    .unwrap_or_else(|panic| Err(Fault::Panicked(message(&*panic))))?;
    state.create(kind, object, caller.peer())
}

/// Runs a method, with this server as the one that its code is hosted by.
pub(crate) fn run(slot: &Slot, call: &mut Call<'_>) -> Result<(), Fault> {
    let exposed = call.state.registry.is_exposed(slot.kind(), call.method);
    if !exposed {
        return Err(Fault::Denied(format!(
            "method `{}` of {} is not exposed",
            call.method,
            slot.kind()
        )));
    }
    let state = call.state;
    passage::hosted(state, || {
        catch_unwind(AssertUnwindSafe(|| slot.object().call(call)))
    })
    .unwrap_or_else(|panic| Err(Fault::Panicked(message(&*panic))))
}

fn grant(caller: &Caller, slot: &Arc<Slot>) -> Result<(), Fault> {
    match caller.peer() {
        Some(peer) => peer.grant(slot),
        None => Ok(()),
    }
}

fn no_object(object: u64) -> Fault {
    Fault::NotFound(format!("object {object:016x} any more"))
}

/// The text of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without a text".to_owned(),
    }
}

/// A fault always fits a message.
fn shortened(mut fault: Fault) -> Fault {
    const LONGEST: usize = 4096;
    if let Fault::NotFound(text)
    | Fault::Denied(text)
    | Fault::Refused(text)
    | Fault::Arguments(text)
    | Fault::Panicked(text)
    | Fault::Encode(text) = &mut fault
    {
        text.truncate(text.floor_char_boundary(LONGEST));
    }
    fault
}

fn encode<T: serde::Serialize>(value: &T, out: &mut Vec<u8>) {
    codec::encode_into(value, out).expect("protocol types have an encoding");
}
