//! Sending by pieces, for who must not wait inside a call.

use mp_core::{codec, transfer};
use serde::Serialize;

use super::{Channel, Until};
use crate::{
    SendError,
    frame::{self, MAX_HEADER},
};

/// A value on its way by pieces.
pub(crate) enum Encoded {
    /// Its whole frame, from `start` on.
    Plain { buffer: Vec<u8>, start: usize },
    /// It holds handles, and has to be sent in one piece.
    WithHandles,
}

impl Channel {
    /// A frame with the encoding of `value`, unless its handles need more than bytes.
    pub(crate) fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Encoded, SendError> {
        let mut buffer = vec![0; MAX_HEADER];
        let (encoded, outgoing) =
            transfer::collect_for(self.carries_fds, || codec::encode_into(value, &mut buffer));
        encoded?;
        if !outgoing.is_empty() {
            return Ok(Encoded::WithHandles); // dropped uncommitted: they stay for now
        }
        let (header, n) = frame::header(buffer.len() - MAX_HEADER);
        buffer[..MAX_HEADER].copy_from_slice(&header);
        let start = MAX_HEADER - n;
        Ok(Encoded::Plain { buffer, start })
    }

    /// A frame with these bytes.
    pub(crate) fn frame(&self, bytes: &[u8]) -> Vec<u8> {
        let (header, n) = frame::header(bytes.len());
        [&header[MAX_HEADER - n..], bytes].concat()
    }

    /// What there is room for of a frame; `TimedOut` if there is none. The caller keeps frames apart.
    pub(crate) fn send_part(&self, part: &[u8]) -> Result<usize, SendError> {
        let tx = self.tx.lock();
        self.check_sending(&tx)?;
        self.write_some([part, &[]], &[], Until::Now)
    }

    /// A frame stays unfinished: nothing can be sent any more.
    pub(crate) fn give_up_frame(&self) {
        self.tear(&mut self.tx.lock());
    }
}
