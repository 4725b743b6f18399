fn main() {
    let (rx, _tx) = mp_pipe::simplex::<u8>().unwrap();
    rx.send(&1).unwrap();
}
