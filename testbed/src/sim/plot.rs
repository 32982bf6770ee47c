//! A run as a picture: progress of every receiver, the sender's rate, NACKs, and the share of repair, over time.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::trace::Sample;

/// Width and height of the picture.
const SIZE: (u32, u32) = (900, 900);
/// Receivers that get a line of their own; of more, every n-th.
const LINES_MAX: usize = 200;

/// Why no picture was made.
#[derive(Debug, thiserror::Error)]
#[error("the plot cannot be drawn: {0}")]
pub struct PlotError(String);

pub(super) fn failed(error: impl std::fmt::Display) -> PlotError {
    PlotError(error.to_string())
}

/// The picture, as SVG.
///
/// # Errors
/// When a panel cannot be drawn.
pub fn svg(title: &str, samples: &[Sample]) -> Result<String, PlotError> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let root = root.titled(title, ("sans-serif", 18)).map_err(failed)?;
        let panels = root.split_evenly((4, 1));
        let end = seconds(samples.last()).max(0.001);
        progress(&panels[0], samples, end)?;
        let rate = |of: fn(&Sample) -> u64, factor: f64| slopes(samples, move |s| of(s) as f64 * factor);
        panel(&panels[1], "sent, Mbit/s", &rate(|s| s.sent_bytes, 8e-6), end)?;
        panel(&panels[2], "NACKs per second", &rate(|s| s.nacks, 1.0), end)?;
        panel(&panels[3], "share of repair in what was sent", &repair_share(samples), end)?;
        root.present().map_err(failed)?;
    }
    Ok(text)
}

fn seconds(sample: Option<&Sample>) -> f64 {
    sample.map_or(0.0, |s| s.at.0 as f64 / 1e6)
}

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn progress(area: &Panel<'_>, samples: &[Sample], end: f64) -> Result<(), PlotError> {
    let mut chart = chart(area, "held by each receiver", end, 1.0)?;
    let receivers = samples.last().map_or(0, |s| s.progress.len());
    for receiver in (0..receivers).step_by(receivers.div_ceil(LINES_MAX).max(1)) {
        let points = samples.iter().map(|s| {
            let held = s.progress.get(receiver).copied().unwrap_or(0.0);
            (seconds(Some(s)), f64::from(held))
        });
        let color = Palette99::pick(receiver).mix(0.8);
        chart.draw_series(LineSeries::new(points, color)).map_err(failed)?;
    }
    Ok(())
}

fn panel(area: &Panel<'_>, label: &str, points: &[(f64, f64)], end: f64) -> Result<(), PlotError> {
    let top = points.iter().map(|(_, y)| *y).fold(0.0, f64::max).max(1e-3) * 1.05;
    let mut chart = chart(area, label, end, top)?;
    chart
        .draw_series(AreaSeries::new(points.iter().copied(), 0.0, BLUE.mix(0.3)).border_style(BLUE))
        .map_err(failed)?;
    Ok(())
}

type Chart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

fn chart<'a, 'b>(area: &'a Panel<'b>, label: &str, end: f64, top: f64) -> Result<Chart<'a, 'b>, PlotError> {
    let mut chart = ChartBuilder::on(area)
        .margin(6)
        .x_label_area_size(24)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end, 0.0..top)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .y_desc(label)
        .x_desc("seconds")
        .y_labels(5)
        .draw()
        .map_err(failed)?;
    Ok(chart)
}

/// How fast something grows, between samples.
fn slopes(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    let slope = |pair: &[Sample]| {
        let [before, after] = pair else { return None };
        let time = seconds(Some(after)) - seconds(Some(before));
        (time > 0.0).then(|| (seconds(Some(after)), (of(after) - of(before)) / time))
    };
    samples.windows(2).filter_map(slope).collect()
}

/// Of what was sent between two samples.
fn repair_share(samples: &[Sample]) -> Vec<(f64, f64)> {
    let share = |pair: &[Sample]| {
        let [before, after] = pair else { return None };
        let grown = |of: fn(&Sample) -> u64| of(after).saturating_sub(of(before)) as f64;
        let sent = grown(|s| s.sent_bytes);
        let share = if sent > 0.0 { grown(|s| s.repair_bytes) / sent } else { 0.0 };
        Some((seconds(Some(after)), share))
    };
    samples.windows(2).filter_map(share).collect()
}

#[cfg(test)]
mod tests {
    use nackcast_common::clock::Time;

    use super::*;

    #[test]
    fn a_run_gives_a_picture_with_a_line_for_each_receiver() {
        let sample = |n: u64| Sample {
            at: Time(n * 100_000),
            progress: vec![n as f32 / 10.0; 3],
            sent_bytes: n * 1000,
            repair_bytes: n * 10,
            nacks: n,
        };
        let picture = svg("three receivers", &(0..=10).map(sample).collect::<Vec<_>>()).unwrap();
        assert!(picture.starts_with("<svg") && picture.contains("three receivers"));
        assert!(picture.matches("<polyline").count() >= 3);
        assert!(svg("nothing", &[]).is_ok());
    }

    #[test]
    fn repair_is_a_share_of_what_was_sent_meanwhile() {
        let sample = |(n, sent_bytes, repair_bytes): (u64, u64, u64)| Sample {
            at: Time(n * 1_000_000),
            sent_bytes,
            repair_bytes,
            ..Sample::default()
        };
        let samples = [(0, 0, 0), (1, 900, 0), (2, 1000, 50), (3, 1000, 50), (4, 1100, 150)].map(sample);
        assert_eq!(repair_share(&samples), [(1.0, 0.0), (2.0, 0.5), (3.0, 0.0), (4.0, 1.0)]);
    }
}
