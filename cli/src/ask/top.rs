//! `nackcast top`: a node, live on the terminal: channels, objects in work, receivers that lag, alerts.

use std::io::IsTerminal;
use std::time::Duration;

use nackcast_proto::rpc::{
    Alert, ListAlertsRequest, Object, ObjectsRequest, Receiver, ReceiversRequest, StatusResponse, WatchRequest,
};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use tokio::sync::mpsc;
use tonic::Code;

use self::view::draw;
use super::{Asked, with_node};
use crate::args::TopArgs;
use crate::failure::{Failure, OrFail};

mod view;

/// Rows of objects and of receivers that are asked for: more than a screen holds.
const ROWS: u32 = 100;
/// How often it is looked whether the display is to end.
const KEYS_EVERY: Duration = Duration::from_millis(200);

/// What is shown.
#[derive(Debug, Default)]
struct Seen {
    status: StatusResponse,
    /// With the name of their channel.
    objects: Vec<(String, Object)>,
    receivers: Vec<(String, Receiver)>,
    alerts: Vec<Alert>,
}

/// What somebody typed, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Typed {
    Quit,
    /// The window has another size.
    Redraw,
}

/// Runs the command.
pub(crate) fn run(args: &TopArgs) -> Result<(), Failure> {
    if args.node.json || !std::io::stdout().is_terminal() {
        return Err(Failure::usage("top draws on a terminal: for programs there is `nackcast status --json`"));
    }
    with_node(&args.node, async |node| {
        let request = WatchRequest { interval_ms: u32::try_from(args.every.as_millis()).unwrap_or(u32::MAX) };
        let mut stream = node.admin().watch(request).await.map_err(|status| node.refused(&status))?.into_inner();
        let mut terminal = ratatui::try_init().or_running("this terminal cannot be drawn on")?;
        let (send, mut typed) = mpsc::channel(16);
        // Ends with the program: nothing else reads the keys.
        std::thread::spawn(move || read_keys(&send));
        let mut seen = Seen::default();
        let ended = loop {
            let message = tokio::select! {
                message = stream.message() => message,
                typed = typed.recv() => match typed {
                    Some(Typed::Redraw) => {
                        if let Err(error) = terminal.draw(|frame| draw(frame, &seen)) {
                            break Err(error).or_running("this terminal cannot be drawn on");
                        }
                        continue;
                    }
                    Some(Typed::Quit) | None => break Ok(()),
                },
            };
            seen = match message {
                Ok(Some(status)) => match look(&node, status).await {
                    Ok(seen) => seen,
                    Err(status) => break Err(node.refused(&status)),
                },
                Ok(None) => break Err(Failure::running("the node ended")),
                Err(status) => break Err(node.refused(&status)),
            };
            if let Err(error) = terminal.draw(|frame| draw(frame, &seen)) {
                break Err(error).or_running("this terminal cannot be drawn on");
            }
        };
        ratatui::restore();
        ended
    })
}

/// Everything beside the status.
async fn look(node: &Asked, status: StatusResponse) -> Result<Seen, tonic::Status> {
    let alerts = node.alerts().list(ListAlertsRequest { all: false }).await?.into_inner().alerts;
    let (mut objects, mut receivers) = (Vec::new(), Vec::new());
    for channel in &status.channels {
        let request = ObjectsRequest { channel: channel.channel.clone(), after: 0, limit: ROWS, busy: true };
        let page = or_nothing(node.admin().objects(request).await)?.map(|page| page.objects).unwrap_or_default();
        objects.extend(page.into_iter().map(|object| (channel.name.clone(), object)));
        if status.role == "sender" {
            let request = ReceiversRequest { channel: channel.channel.clone(), limit: ROWS };
            let page = or_nothing(node.admin().receivers(request).await)?.map(|page| page.receivers);
            receivers.extend(page.unwrap_or_default().into_iter().map(|receiver| (channel.name.clone(), receiver)));
        }
    }
    Ok(Seen { status, objects, receivers, alerts })
}

/// A channel that cannot say it now leaves its part of the screen empty.
fn or_nothing<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<Option<T>, tonic::Status> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::Unimplemented) => Ok(None),
        Err(status) => Err(status),
    }
}

fn read_keys(send: &mpsc::Sender<Typed>) {
    while !send.is_closed() {
        let typed = match event::poll(KEYS_EVERY) {
            Ok(false) => continue,
            Ok(true) => event::read().ok().and_then(|event| meaning(&event)),
            // The terminal is gone.
            Err(_) => Some(Typed::Quit),
        };
        if let Some(typed) = typed
            && send.blocking_send(typed).is_err()
        {
            return;
        }
    }
}

fn meaning(event: &Event) -> Option<Typed> {
    match event {
        Event::Key(key) => {
            let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            (is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)).then_some(Typed::Quit)
        }
        Event::Resize(..) => Some(Typed::Redraw),
        _ => None,
    }
}
