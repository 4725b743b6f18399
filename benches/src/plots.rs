//! The figures as pictures: bars on a logarithmic scale, a file per workload.

use std::{error::Error, fs, path::Path};

use plotters::{
    prelude::*,
    style::{Color, RGBColor},
};

use crate::{cases::Case, shown};

/// The height of one bar, and of what stands around them, in pixels.
const BAR: u32 = 26;
const FRAME: u32 = 110;
const WIDTH: u32 = 900;
const GREY: RGBColor = RGBColor(120, 120, 120);

/// Draws `WORKLOAD.svg` for each workload of `cases` into `folder`.
pub(crate) fn draw(cases: &[Case], folder: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    for cases in cases.chunk_by(|a, b| a.workload == b.workload) {
        let path = folder.join(format!("{}.svg", cases[0].workload));
        draw_workload(cases, &path)?;
    }
    Ok(())
}

/// One contender at one case.
struct Bar {
    label: String,
    value: f64,
    color: RGBColor,
}

fn bars(cases: &[Case]) -> Vec<Bar> {
    let bar = |case: &Case, contender: &str, value| Bar {
        label: format!("{} {contender}", case.param),
        value,
        color: match contender.split(':').next() {
            Some("mp") => BLUE,
            Some("python") => RED,
            _ => GREY,
        },
    };
    let all = cases.iter().flat_map(|case| {
        let bars = case.medians.iter();
        bars.map(move |(contender, value)| bar(case, contender, *value))
    });
    let mut bars: Vec<_> = all.filter(|bar| bar.value > 0.0).collect();
    bars.reverse(); // the axis grows upwards
    bars
}

fn draw_workload(cases: &[Case], path: &Path) -> Result<(), Box<dyn Error>> {
    let bars = bars(cases);
    let values = || bars.iter().map(|bar| bar.value);
    // From a decade below the least, so that every bar can be seen.
    let least = values().fold(f64::INFINITY, f64::min) / 10.0;
    let most = values().fold(0.0, f64::max) * 4.0;
    let height = FRAME + BAR * bars.len() as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let units: Vec<_> = cases.iter().map(|case| case.unit.as_str()).collect();
    let mut chart = ChartBuilder::on(&area)
        .caption(&cases[0].workload, ("sans-serif", 22))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(290)
        .build_cartesian_2d(
            (least..most).log_scale(),
            (0..bars.len() as i32 - 1).into_segmented(),
        )?;
    let label = |at: &SegmentValue<i32>| match at {
        SegmentValue::CenterOf(index) => bars
            .get(*index as usize)
            .map_or(String::new(), |bar| bar.label.clone()),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(bars.len())
        .y_label_formatter(&label)
        .x_desc(one_of(&units))
        .draw()?;
    chart.draw_series(bars.iter().enumerate().map(|(index, bar)| {
        let index = index as i32;
        let corners = [
            (least, SegmentValue::Exact(index)),
            (bar.value, SegmentValue::Exact(index + 1)),
        ];
        let mut bar = Rectangle::new(corners, bar.color.mix(0.6).filled());
        bar.set_margin(4, 4, 0, 0);
        bar
    }))?;
    chart.draw_series(bars.iter().enumerate().map(|(index, bar)| {
        let at = (bar.value, SegmentValue::CenterOf(index as i32));
        Text::new(
            format!(" {}", shown(Some(bar.value))),
            at,
            ("sans-serif", 13),
        )
    }))?;
    area.present()?;
    Ok(())
}

/// The units of one picture, each once.
fn one_of(units: &[&str]) -> String {
    let mut units = units.to_vec();
    units.sort_unstable();
    units.dedup();
    units.join(" or ")
}
