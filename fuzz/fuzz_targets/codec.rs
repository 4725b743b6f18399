//! Values from bytes that anybody may have written: an error or a value, and every value survives
//! being encoded and decoded again.
#![no_main]

use std::{collections::BTreeMap, fmt::Debug};

use libfuzzer_sys::fuzz_target;
use mp_core::codec::{self, Bytes};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// One of each of serde's shapes.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
enum Shape {
    Unit,
    Numbers(u8, i16, u32, i64, u128),
    Text { text: String, letter: char },
    Bytes(Bytes),
    Many(Vec<Option<(bool, u16)>>),
    Map(BTreeMap<String, Vec<u8>>),
    Inside(Option<Box<Shape>>),
}

fn check<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(value) = codec::decode::<T>(bytes) else {
        return;
    };
    let mut again = Vec::new();
    codec::encode_into(&value, &mut again).expect("what was decoded can be encoded");
    let same: T = codec::decode(&again).expect("what was encoded can be decoded");
    assert_eq!(value, same);
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    match which % 6 {
        0 => check::<Shape>(bytes),
        1 => check::<Vec<Shape>>(bytes),
        2 => check::<(String, Vec<String>)>(bytes),
        3 => check::<Bytes>(bytes),
        4 => check::<BTreeMap<u64, Result<String, i8>>>(bytes),
        _ => check::<[u64; 5]>(bytes),
    }
});
