fn main() {
    let (_rx, tx) = mp_pipe::simplex::<u8>().unwrap();
    tx.recv().unwrap();
    tx.poll(None).unwrap();
}
