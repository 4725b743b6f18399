//! Thumbnails of a folder of images; a broken file, or one that kills its decoder, costs one line.
//!
//!     cargo run --release --example thumbnails -- [FOLDER] [--out FOLDER]
//!
//! Decoders meet files from everywhere: here each runs in a process with limits on memory and time, so a file
//! that makes it panic, crash, hang or ask for all memory there is fails alone. Without a
//! folder, the example makes one with a few images, some of them broken on purpose.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use image::{ImageReader, Limits, Rgb, RgbImage};
use mp::{Pool, TaskError};
use serde::{Deserialize, Serialize};

/// Makes thumbnails with a pool of processes.
#[derive(Parser)]
struct Args {
    /// The folder with the images
    folder: Option<PathBuf>,
    /// Where the thumbnails go
    #[arg(long, default_value_os_t = std::env::temp_dir().join("thumbnails"))]
    out: PathBuf,
    /// Their longer side in pixels
    #[arg(long, default_value_t = 96)]
    size: u32,
    /// What one decoder may take, in MiB
    #[arg(long, default_value_t = 256)]
    memory: u64,
    /// How long one image may take, in seconds
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

/// One image, its place, and its size.
#[derive(Serialize, Deserialize)]
struct Job {
    from: PathBuf,
    to: PathBuf,
    size: u32,
}

fn thumbnail(job: Job) -> Result<(u32, u32), String> {
    pretend(&job.from);
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut reader = ImageReader::open(&job.from)
        .and_then(ImageReader::with_guessed_format)
        .map_err(|e| text(&e))?;
    reader.limits(Limits::no_limits()); // the process has its own
    let small = reader
        .decode()
        .map_err(|e| text(&e))?
        .thumbnail(job.size, job.size);
    small.save(&job.to).map_err(|e| text(&e))?;
    Ok((small.width(), small.height()))
}

/// What a decoder with a bug does with a file that was made for it: the examples' own files ask for it by name.
fn pretend(file: &Path) {
    match file.file_stem().and_then(|name| name.to_str()) {
        Some("crashes-the-decoder") => std::process::abort(),
        Some("never-ends") => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
        _ => {}
    }
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    mp::init();
    let args = Args::parse();
    let folder = match args.folder {
        Some(folder) => folder,
        None => make_examples(&args.out.with_file_name("thumbnails-input"))?,
    };
    fs::create_dir_all(&args.out)?;

    let mut files: Vec<_> = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let jobs = files.iter().map(|from| {
        // With its whole name: a.jpg and a.png are two images.
        let mut name = from.file_name().unwrap_or_default().to_owned();
        name.push(".png");
        Job {
            from: from.clone(),
            to: args.out.join(name),
            size: args.size,
        }
    });

    let pool = Pool::builder()
        .workers(mp::cpu_count())
        .memory_limit(args.memory << 20)
        .task_timeout(Duration::from_secs_f64(args.seconds))
        .build()?;
    let (mut made, mut failed) = (0, 0);
    for (file, result) in files.iter().zip(pool.imap(thumbnail, jobs)) {
        let name = file.file_name().unwrap_or_default().display();
        match flatten(result) {
            Ok((width, height)) => {
                made += 1;
                println!("{name}: {width}×{height}");
            }
            Err(reason) => {
                failed += 1;
                eprintln!("{name}: {reason}");
            }
        }
    }
    println!(
        "{made} thumbnails in {}, {failed} failed",
        args.out.display()
    );
    pool.close().join()?;
    Ok(ExitCode::from(u8::from(made == 0)))
}

/// One line for whatever went wrong, be it the file or the decoder.
fn flatten(result: Result<Result<(u32, u32), String>, TaskError>) -> Result<(u32, u32), String> {
    result.map_err(|error| error.to_string())?
}

/// A folder with good images and bad ones.
fn make_examples(folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    fs::create_dir_all(folder)?;
    for n in 1..=4_u8 {
        let image = RgbImage::from_fn(400, 300, |x, y| Rgb([x as u8, y as u8, n * 60]));
        image.save(folder.join(format!("good-{n}.png")))?;
    }
    let good = fs::read(folder.join("good-1.png"))?;
    fs::write(folder.join("cut-short.png"), &good[..good.len() / 2])?;
    fs::write(folder.join("no-image.png"), "nothing of the kind")?;
    fs::write(folder.join("claims-to-be-huge.bmp"), huge_bitmap())?;
    fs::write(folder.join("crashes-the-decoder.png"), &good)?;
    fs::write(folder.join("never-ends.png"), &good)?;
    Ok(folder.to_path_buf())
}

/// The header of a bitmap of 40,000 × 40,000 pixels, and not one of them.
fn huge_bitmap() -> Vec<u8> {
    let mut file = b"BM".to_vec();
    file.extend([0; 8]);
    file.extend(54_u32.to_le_bytes());
    file.extend(40_u32.to_le_bytes());
    file.extend(40_000_u32.to_le_bytes());
    file.extend(40_000_u32.to_le_bytes());
    file.extend(1_u16.to_le_bytes());
    file.extend(24_u16.to_le_bytes());
    file.extend([0; 24]);
    file
}
