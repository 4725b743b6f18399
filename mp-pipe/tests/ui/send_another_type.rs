fn main() {
    let (_here, there) = mp_pipe::duplex::<u8, String>().unwrap();
    there.send(&1_u8).unwrap();
}
