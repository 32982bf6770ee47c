//! The table as a picture: what is sent, NACKs and time, against the number of receivers.

use std::collections::BTreeSet;

use plotters::coord::Shift;
use plotters::coord::combinators::LogCoord;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::rows::Row;
use crate::sim::plot::{PlotError, failed};

/// Width and height of the picture.
const SIZE: (u32, u32) = (900, 1000);

/// Rows of one loss and one size of content: a line each.
struct Line<'a> {
    name: String,
    color: RGBColor,
    /// Of the largest content; others are drawn thin.
    is_main: bool,
    rows: Vec<&'a Row>,
}

/// The picture, as SVG: symbols sent with the least by theory (dashed), NACKs a second, and time over the ideal.
///
/// # Errors
/// When a panel cannot be drawn.
pub fn scale_svg(rows: &[Row]) -> Result<String, PlotError> {
    let lines = lines(rows);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let panels = root.split_evenly((3, 1));
        let sent = "symbols sent / source symbols (dashed: least)";
        panel(&panels[0], sent, &lines, 1.0, |row| row.symbols, Some(|row| row.least))?;
        panel(&panels[1], "NACKs and reports per second, mean", &lines, 0.0, |row| row.nacks_per_second, None)?;
        panel(&panels[2], "time of the last receiver / ideal", &lines, 1.0, Row::time_ratio, None)?;
        root.present().map_err(failed)?;
    }
    Ok(text)
}

fn lines(rows: &[Row]) -> Vec<Line<'_>> {
    let losses: BTreeSet<_> = rows.iter().map(|row| row.loss.as_str()).collect();
    let sizes: BTreeSet<_> = rows.iter().map(|row| row.megabytes).collect();
    let largest = sizes.last().copied().unwrap_or(0);
    let mut lines = Vec::new();
    for (number, loss) in losses.iter().enumerate() {
        for megabytes in sizes.iter().rev() {
            let of = |row: &&Row| row.loss == *loss && row.megabytes == *megabytes;
            let mut rows: Vec<_> = rows.iter().filter(of).collect();
            if rows.is_empty() {
                continue;
            }
            rows.sort_by_key(|row| row.receivers);
            let unit = if loss.parse::<f64>().is_ok() { " %" } else { "" };
            let color = [BLUE, RED, GREEN, MAGENTA][number % 4];
            lines.push(Line {
                name: format!("{loss}{unit}, {megabytes} MB"),
                color,
                is_main: *megabytes == largest,
                rows,
            });
        }
    }
    lines
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, RangedCoordf64>>;

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    label: &str,
    lines: &[Line<'_>],
    bottom: f64,
    value: fn(&Row) -> f64,
    least: Option<fn(&Row) -> f64>,
) -> Result<(), PlotError> {
    let rows = || lines.iter().flat_map(|line| &line.rows);
    let top = rows().map(|row| value(row)).fold(bottom, f64::max);
    let top = bottom + (top - bottom).max(0.01) * 1.05;
    let most = rows().map(|row| f64::from(row.receivers)).fold(10.0, f64::max);
    let mut chart: Chart<'_, '_> = ChartBuilder::on(area)
        .margin(8)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d((8.0..most * 1.25).log_scale(), bottom..top)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("receivers")
        .y_desc(label)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()
        .map_err(failed)?;
    for line in lines {
        let points = |value: fn(&Row) -> f64| line.rows.iter().map(move |row| (f64::from(row.receivers), value(row)));
        let (width, color) = (if line.is_main { 2 } else { 1 }, line.color);
        let series = LineSeries::new(points(value), color.stroke_width(width)).point_size(width + 1);
        chart
            .draw_series(series)
            .map_err(failed)?
            .label(line.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(width)));
        if let Some(least) = least {
            chart.draw_series(DashedLineSeries::new(points(least), 5, 4, color.mix(0.7).into())).map_err(failed)?;
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()
        .map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loss_and_size_has_a_line() {
        let row = |receivers, loss: &str, megabytes| Row {
            receivers,
            loss: loss.to_owned(),
            megabytes,
            symbols: 1.05,
            least: 1.04,
            time: 2.0,
            ideal: 1.5,
            ..Row::default()
        };
        let rows = [row(10, "1", 1000), row(10_000, "1", 1000), row(100_000, "1", 64), row(10, "tree", 1000)];
        let picture = scale_svg(&rows).unwrap();
        for name in ["1 %, 1000 MB", "1 %, 64 MB", "tree, 1000 MB", "receivers"] {
            assert!(picture.contains(name), "{name}");
        }
        assert!(scale_svg(&[]).is_ok());
    }
}
