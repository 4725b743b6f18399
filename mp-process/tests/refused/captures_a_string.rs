// A captured `String` is not `Copy`.
use mp_process::Process;

fn main() {
    let name = "dad".to_owned();
    let _ = Process::new(move |greeting: String| greeting + &name, ("Hello, ".to_owned(),));
}
