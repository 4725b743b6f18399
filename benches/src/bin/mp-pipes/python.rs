//! The same in Python, by `multiprocessing.Pipe`.

use std::process::Command;

pub(crate) fn trips(len: usize, asleep: bool) -> f64 {
    round_trips(&format!(
        "
def serve(c):
    while True:
        m = c.recv_bytes()
        c.send_bytes(m)
        if m[0] == 9: return
def trip(c, m): c.send_bytes(m); c.recv_bytes()
m, last = bytes({len}), bytes([9]) * {len}
asleep = {asleep}
",
        asleep = if asleep { "True" } else { "False" },
    ))
}

pub(crate) fn structs() -> f64 {
    round_trips(
        "
def serve(c):
    while True:
        m = c.recv()
        c.send(m)
        if m['id'] == 9: return
def trip(c, m): c.send(m); c.recv()
m = dict(id=0, name='worker-node-000123', tags=['alpha', 'beta', 'gamma'], values=[n * .5 for n in range(112)])
last = dict(m, id=9)
asleep = False
",
    )
}

/// Round trips in Python, as `setup` says.
fn round_trips(setup: &str) -> f64 {
    let script = format!(
        "
import multiprocessing as mp, time
mp.set_start_method('fork')
{setup}
a, b = mp.Pipe()
p = mp.Process(target=serve, args=(b,)); p.start()
for _ in range(200): trip(a, m)
if asleep:
    ts = []
    for _ in range(500):
        time.sleep(300e-6)
        t = time.perf_counter(); trip(a, m); ts.append(time.perf_counter() - t)
    print(sorted(ts)[250] * 1e6)
else:
    t = time.perf_counter()
    for _ in range(3000): trip(a, m)
    print((time.perf_counter() - t) / 3000 * 1e6)
a.send(last) if isinstance(m, dict) else a.send_bytes(last)
p.join()
"
    );
    run(&script)
}

pub(crate) fn one_way(len: usize, count: u32) -> f64 {
    let count = (count / 8).max(3); // it takes long
    run(&format!(
        "
import multiprocessing as mp, time
mp.set_start_method('fork')
def drain(r, d):
    for _ in range({count} + 1): r.recv_bytes()
    d.send_bytes(b'!')
r, w = mp.Pipe(False); d, e = mp.Pipe(False)
p = mp.Process(target=drain, args=(r, e)); p.start()
m = bytes({len}); w.send_bytes(m)
t = time.perf_counter()
for _ in range({count}): w.send_bytes(m)
d.recv_bytes()
print({len} * {count} / (time.perf_counter() - t) / 1e6)
p.join()
"
    ))
}

/// The figure that `script` prints; NaN without a Python.
fn run(script: &str) -> f64 {
    let output = Command::new("python3").arg("-c").arg(script).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(f64::NAN)
}
