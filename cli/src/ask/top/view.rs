//! How it is drawn.

use nackcast_common::units::ByteCount;
use nackcast_proto::rpc::Severity;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Table};

use super::super::{ago, percent, role_in_words};
use super::Seen;
use crate::failure::one_line;
use crate::report::rate;

/// Draws one picture.
pub(super) fn draw(frame: &mut Frame<'_>, seen: &Seen) {
    let channels = u16::try_from(seen.status.channels.len()).unwrap_or(u16::MAX).saturating_add(3).min(12);
    let alerts = u16::try_from(seen.alerts.len() * 2).unwrap_or(u16::MAX).saturating_add(2).clamp(3, 14);
    let rows = [
        Constraint::Length(1),
        Constraint::Length(channels),
        Constraint::Min(4),
        Constraint::Length(alerts),
        Constraint::Length(1),
    ];
    let [head, top, middle, bottom, help] = Layout::vertical(rows).areas(frame.area());
    let status = &seen.status;
    let role = role_in_words(&status.role, status.channels.first().map_or("", |channel| &channel.sender_role));
    let title = format!("{role} on {}, version {}, up {}", status.node, status.version, ago(status.started));
    frame.render_widget(Line::from(title).bold(), head);
    draw_channels(frame, top, seen);
    if seen.status.role == "sender" {
        let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(middle);
        draw_objects(frame, left, seen);
        draw_receivers(frame, right, seen);
    } else {
        draw_objects(frame, middle, seen);
    }
    draw_alerts(frame, bottom, seen);
    frame.render_widget(Line::from("q: quit").dim(), help);
}

fn table<'a>(title: &str, header: Vec<&'static str>, rows: Vec<Row<'a>>, widths: Vec<Constraint>) -> Table<'a> {
    let block = Block::bordered().title(title.to_owned());
    Table::new(rows, widths).header(Row::new(header).bold()).block(block)
}

fn draw_channels(frame: &mut Frame<'_>, area: Rect, seen: &Seen) {
    let is_sender = seen.status.role == "sender";
    let rows = seen.status.channels.iter().map(|channel| {
        let receivers = format!("{} of {}", channel.receivers_complete, channel.receivers);
        Row::new([
            one_line(&channel.name),
            channel.state.clone(),
            channel.generation.to_string(),
            format!("{} of {}", channel.objects_done, channel.objects),
            format!("{} of {}", ByteCount(channel.bytes_done), ByteCount(channel.bytes)),
            rate(channel.rate_bps),
            if is_sender { format!("{} + {}", channel.jobs, channel.pool) } else { percent(channel.loss_ppm) },
            if is_sender { receivers } else { channel.senders.to_string() },
        ])
    });
    let (work, others) = if is_sender { ("LIST+POOL", "COMPLETE") } else { ("LOSS", "SENDERS") };
    let header = vec!["CHANNEL", "STATE", "GEN", "OBJECTS", "SIZE", "RATE", work, others];
    // What is short is never cut, in the 78 columns that a window of 80 has for it.
    let widths = [
        Constraint::Fill(5),
        Constraint::Fill(8),
        // Generations are numbered by the wall clock, in milliseconds.
        Constraint::Length(13),
        Constraint::Fill(8),
        Constraint::Fill(10),
        Constraint::Length(10),
        Constraint::Length(if is_sender { 9 } else { 6 }),
        Constraint::Length(8),
    ];
    frame.render_widget(table("channels", header, rows.collect(), widths.to_vec()), area);
}

fn draw_objects(frame: &mut Frame<'_>, area: Rect, seen: &Seen) {
    let rows = seen.objects.iter().map(|(_, object)| {
        Row::new([
            one_line(&object.path),
            object.state.clone(),
            object.pass_count.to_string(),
            format!("{} of {}", ByteCount(object.bytes_done), ByteCount(object.bytes)),
        ])
    });
    let widths = [4, 2, 1, 3].map(Constraint::Fill).to_vec();
    frame
        .render_widget(table("objects in work", vec!["PATH", "STATE", "PASSES", "HERE"], rows.collect(), widths), area);
}

fn draw_receivers(frame: &mut Frame<'_>, area: Rect, seen: &Seen) {
    let rows = seen.receivers.iter().map(|(_, receiver)| {
        let state = match (receiver.silent, receiver.complete) {
            (true, _) => "silent",
            (false, true) => "complete",
            (false, false) => "receiving",
        };
        Row::new([
            receiver.address.clone(),
            state.to_owned(),
            ByteCount(receiver.bytes_missing).to_string(),
            percent(receiver.loss_ppm),
            format!("{} s", receiver.heard_ms / 1000),
        ])
    });
    let widths = [4, 2, 2, 2, 1].map(Constraint::Fill).to_vec();
    let header = vec!["RECEIVER", "STATE", "LACKS", "LOSS", "HEARD"];
    frame.render_widget(table("receivers, those that lag first", header, rows.collect(), widths), area);
}

fn draw_alerts(frame: &mut Frame<'_>, area: Rect, seen: &Seen) {
    let block = Block::bordered().title("alerts");
    if seen.alerts.is_empty() {
        frame.render_widget(Paragraph::new("nothing is wrong").block(block), area);
        return;
    }
    let lines = seen.alerts.iter().flat_map(|alert| {
        let color = if alert.severity() == Severity::Critical { Color::Red } else { Color::Yellow };
        let (channel, text) = (one_line(&alert.channel), one_line(&alert.text));
        let what = format!("{} {} {channel} ({}, {}): {text}", alert.id, alert.kind, alert.count, ago(alert.last));
        [Line::styled(what, Style::new().fg(color)), Line::from(format!("    {}", alert.check))]
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
}

#[cfg(test)]
mod tests {
    use nackcast_proto::rpc::{Alert, ChannelStatus, Object, Receiver, StatusResponse};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn drawn(seen: &Seen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, seen)).unwrap();
        terminal.backend().to_string()
    }

    fn seen(role: &str) -> Seen {
        let channel = ChannelStatus {
            name: "news".into(),
            state: "sending".into(),
            objects: 7,
            objects_done: 3,
            generation: 1_795_296_696_123,
            rate_bps: 20_000_000,
            jobs: 2,
            pool: 5,
            sender_role: if role == "sender" { "backup".into() } else { String::new() },
            ..ChannelStatus::default()
        };
        let status = StatusResponse {
            role: role.into(),
            node: "edge\u{1b}1".into(),
            channels: vec![channel],
            ..StatusResponse::default()
        };
        let object = Object { path: "a/film".into(), state: "pool".into(), pass_count: 4, ..Object::default() };
        let receiver = Receiver { address: "10.0.0.9:4000".into(), bytes_missing: 2048, ..Receiver::default() };
        let kind = "receiver-silent".to_owned();
        let alert = Alert { kind, text: "1 receiver".into(), check: "look there".into(), ..Alert::default() };
        let in_channel = "news".to_owned();
        Seen {
            status,
            objects: vec![(in_channel.clone(), object)],
            receivers: vec![(in_channel, receiver)],
            alerts: vec![alert],
        }
    }

    #[test]
    fn all_of_it_is_on_one_screen() {
        let text = drawn(&seen("sender"), 120, 40);
        for what in [
            "backup sender on",
            "news",
            "sending",
            "3 of 7",
            "2 + 5",
            "a/film",
            "pool",
            "10.0.0.9:4000",
            "receiver-silent",
            "look there",
        ] {
            assert!(text.contains(what), "{what}\n{text}");
        }
        let text = drawn(&seen("receiver"), 120, 40);
        assert!(!text.contains("10.0.0.9") && text.contains("LOSS"), "{text}");
    }

    #[test]
    fn the_usual_window_is_wide_enough() {
        let text = drawn(&seen("sender"), 80, 24);
        for what in ["news", "sending", "1795296696123", "3 of 7", "20mbit/s", "LIST+POOL", "2 + 5", "COMPLETE"] {
            assert!(text.contains(what), "{what}\n{text}");
        }
    }

    #[test]
    fn a_small_window_and_an_empty_node_are_no_trouble() {
        for size in [(1, 1), (20, 5), (80, 10)] {
            drawn(&seen("sender"), size.0, size.1);
        }
        assert!(drawn(&Seen::default(), 80, 24).contains("nothing is wrong"));
    }
}
