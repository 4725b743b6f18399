//! The Mandelbrot set, a row for each task, as a PNG.
//!
//!     cargo run --release --example mandelbrot -- [FILE] [--width N] [--workers N]

use std::{fs::File, io::BufWriter, path::PathBuf};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use mp::{Bytes, Pool};

/// Draws the Mandelbrot set with a pool of processes.
#[derive(Parser)]
struct Args {
    /// Where the picture goes
    #[arg(default_value_os_t = std::env::temp_dir().join("mandelbrot.png"))]
    file: PathBuf,
    /// Its width in pixels
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(3..=20_000))]
    width: u32,
    /// How many processes draw; as many as there are CPUs unless told otherwise
    #[arg(short = 'j', long)]
    workers: Option<usize>,
}

const DEPTH: u32 = 300;

/// One row: its number, so that it finds its place, and three bytes for each pixel.
fn row((number, width, height): (u32, u32, u32)) -> (u32, Bytes) {
    let scale = 3.0 / f64::from(width);
    let y = (f64::from(number) - f64::from(height) / 2.0) * scale;
    let pixels = (0..width).flat_map(|column| {
        let x = f64::from(column) * scale - 2.2;
        colour(escape_time(x, y))
    });
    (number, Bytes::from(pixels.collect::<Vec<u8>>()))
}

fn escape_time(x: f64, y: f64) -> u32 {
    let (mut re, mut im) = (0.0, 0.0);
    for step in 0..DEPTH {
        let (re2, im2) = (re * re, im * im);
        if re2 + im2 > 4.0 {
            return step;
        }
        (re, im) = (re2 - im2 + x, 2.0 * re * im + y);
    }
    DEPTH
}

fn colour(steps: u32) -> [u8; 3] {
    if steps == DEPTH {
        return [0, 0, 0];
    }
    let phase = f64::from(steps) / 20.0;
    [0.0, 0.6, 1.2].map(|shift| (127.5 * (1.0 + (phase + shift).sin())) as u8)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    mp::init();
    let args = Args::parse();
    let (width, height) = (args.width, args.width * 2 / 3);

    let pool = Pool::new(args.workers.unwrap_or_else(mp::cpu_count))?;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} rows  {elapsed}")?;
    let progress = ProgressBar::new(height.into()).with_style(style);

    // Rows arrive as they are ready; the picture knows where they belong.
    let mut picture = vec![0; (width * height * 3) as usize];
    let rows = (0..height).map(|number| (number, width, height));
    for done in progress.wrap_iter(pool.imap_unordered(row, rows)) {
        let (number, pixels) = done?;
        let start = (number * width * 3) as usize;
        picture[start..start + pixels.len()].copy_from_slice(&pixels);
    }
    progress.finish_and_clear();

    let mut encoder = png::Encoder::new(BufWriter::new(File::create(&args.file)?), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(&picture)?;
    println!("{width}×{height} pixels in {}", args.file.display());

    pool.close().join()?;
    Ok(())
}
