//! Several processes draw into one shared picture; the parent writes it as a PNG.
//!
//!     cargo run --example shared_image [FILE]
//!
//! Each process draws discs of its own colour. A disc is drawn under the picture's lock, so none is
//! ever half covered by another that was drawn at the same time.
use std::{fs::File, io::BufWriter};

use mp::{Array, Process};

const SIDE: usize = 400;
const PROCESSES: u64 = 4;
const DISCS: usize = 60;

type Pixel = [u8; 3];

fn draw(picture: Array<Pixel>, number: u64) {
    let mut random = fastrand::Rng::with_seed(number);
    let colour = [random.u8(64..), random.u8(64..), random.u8(64..)];
    for _ in 0..DISCS {
        let (x, y) = (random.usize(..SIDE), random.usize(..SIDE));
        let radius = random.usize(4..30);
        let mut pixels = picture.lock().expect("nobody dies while drawing");
        disc(&mut pixels, (x, y), radius, colour);
    }
}

fn disc(pixels: &mut [Pixel], (x, y): (usize, usize), radius: usize, colour: Pixel) {
    for (index, pixel) in pixels.iter_mut().enumerate() {
        let (dx, dy) = ((index % SIDE).abs_diff(x), (index / SIDE).abs_diff(y));
        if dx * dx + dy * dy <= radius * radius {
            *pixel = colour;
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    mp::init();

    let picture = Array::<Pixel>::zeroed(SIDE * SIDE)?;
    let painters: Result<Vec<_>, _> = (0..PROCESSES)
        .map(|number| Process::new(draw, (picture.clone(), number)).start())
        .collect();
    for painter in painters? {
        painter.join()?;
    }

    let path = std::env::args_os().nth(1).map_or_else(
        || std::env::temp_dir().join(format!("mp-shared-image-{}.png", std::process::id())),
        Into::into,
    );
    let pixels = picture.lock().map_err(mp::Error::from)?;
    let mut png = png::Encoder::new(
        BufWriter::new(File::create(&path)?),
        SIDE as u32,
        SIDE as u32,
    );
    png.set_color(png::ColorType::Rgb);
    png.write_header()?
        .write_image_data(pixels.as_flattened())?;
    let drawn = pixels.iter().filter(|pixel| **pixel != [0; 3]).count();
    println!(
        "{}: {drawn} of {} pixels are drawn",
        path.display(),
        pixels.len()
    );
    Ok(())
}
