//! `nackcast channel`: makes channels, tickets and delegated keys, and says who is let in.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use nackcast_common::admission::{Admission, RECEIVERS_MAX};
use nackcast_common::ids::{ChannelId, Epoch};
use nackcast_common::keys::{SenderMaster, SigningKey, VerifyingKey, fill_random};
use nackcast_common::private_file::discard;
use nackcast_proto::wire::SenderCertificate;
use serde::Serialize;

use crate::args::{
    ChannelAllowArgs, ChannelCommand, ChannelDelegateArgs, ChannelNewArgs, ChannelRevokeArgs, ChannelRotateArgs,
    ChannelTicketArgs,
};
use crate::failure::Failure;
use crate::keyfile::{AdmissionMode, Authority, KeyFile, check_advertise};
use crate::output::{print, print_json};
use crate::private_file;

/// Where advertisements go unless told; data goes to the next port.
const DEFAULT_PORT: u16 = 7600;
/// What a sender listens on unless told, and the reserved port after it: a group on the same port could not be bound beside it.
const LISTEN_PORTS: [u16; 2] = [7701, 7702];
/// `NAME.ticket` must be a file name.
const NAME_LEN_MAX: usize = 200;
/// As many as a ticket carries.
const SENDERS_MAX: usize = 16;

/// What `--json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    channel: String,
    name: &'a str,
    advertise: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket_file: Option<&'a Path>,
    ticket: String,
}

/// Runs one of the commands.
pub(crate) fn run(command: ChannelCommand) -> Result<(), Failure> {
    match command {
        ChannelCommand::New(args) => new(&args),
        ChannelCommand::Ticket(args) => ticket(&args),
        ChannelCommand::Delegate(args) => delegate(&args),
        ChannelCommand::Allow(args) => allow(&args),
        ChannelCommand::Revoke(args) => revoke(&args),
        ChannelCommand::Rotate(args) => rotate(&args),
    }
}

fn new(args: &ChannelNewArgs) -> Result<(), Failure> {
    check_name(&args.name)?;
    if args.sender.len() > SENDERS_MAX {
        return Err(Failure::usage(format_args!("--sender: a ticket carries at most {SENDERS_MAX} senders")));
    }
    let key_path = args.out.clone().unwrap_or_else(|| format!("{}.key", args.name).into());
    let ticket_path = ticket_path(&key_path);
    let file = fresh(
        &args.name,
        args.advertise.map(|group| group.0),
        args.sender.iter().map(|sender| sender.0.clone()).collect(),
    )?;
    let file = match args.admission {
        AdmissionMode::Ticket => file,
        AdmissionMode::AllowList => {
            let receivers = Some(BTreeMap::new());
            KeyFile { admission: Admission { receivers, ..file.admission }, ..file }
        }
    };
    write(&file, &key_path, &ticket_path)?;
    tracing::info!("wrote {} and {}", key_path.display(), ticket_path.display());
    show(args.json, &file, Some(&key_path), Some(&ticket_path))
}

/// Makes a channel with the default address and one sender.
pub(crate) fn create(name: &str, sender: SocketAddr, key_path: &Path, ticket_path: &Path) -> Result<(), Failure> {
    write(&fresh(name, None, vec![sender.to_string()])?, key_path, ticket_path)
}

/// Both files, or none.
fn write(file: &KeyFile, key_path: &Path, ticket_path: &Path) -> Result<(), Failure> {
    file.create(key_path)?;
    if let Err(failure) = private_file::create(ticket_path, &format!("{}\n", file.ticket())) {
        discard(key_path); // nobody has this channel's ticket yet: leave nothing behind
        return Err(failure);
    }
    Ok(())
}

fn ticket(args: &ChannelTicketArgs) -> Result<(), Failure> {
    show(args.json, &KeyFile::load(&args.file)?, None, None)
}

fn delegate(args: &ChannelDelegateArgs) -> Result<(), Failure> {
    let file = KeyFile::load(&args.file)?;
    let Authority::Publisher(publisher) = &file.authority else {
        return Err(Failure::usage(format_args!(
            "key file {} is delegated itself and may not delegate: use the publisher's key file",
            args.file.display()
        )));
    };
    let sender = SigningKey::generate();
    let certificate = SenderCertificate::issue(publisher, file.channel, sender.verifying_key());
    let authority = Authority::Delegated { publisher: publisher.verifying_key(), sender, certificate };
    let delegated = KeyFile { authority, ..file };
    delegated.create(&args.out)?;
    if args.json {
        return show(true, &delegated, Some(&args.out), None);
    }
    print(&format!("{}: may serve channel {} but not publish", args.out.display(), delegated.name))
}

/// What `--json` prints of a list that changed.
#[derive(Serialize)]
struct Changed<'a> {
    channel: String,
    name: &'a str,
    epoch: u32,
    /// How many receivers are on the list; none: the channel has no list.
    receivers: Option<usize>,
    /// The new ticket, where it holds the secret.
    ticket: Option<String>,
}

/// How a running sender takes it up.
const TAKE_UP: &str = "send the sender SIGHUP to take it up (`systemctl reload`), and do the same at each backup";

fn allow(args: &ChannelAllowArgs) -> Result<(), Failure> {
    let file = KeyFile::change(&args.file, |file| {
        let (receivers, count) = list(file, &args.file)?;
        if count >= RECEIVERS_MAX && !receivers.contains_key(&args.key.0) {
            return Err(Failure::usage(format_args!("a list holds at most {RECEIVERS_MAX} receivers")));
        }
        let name = args.name.clone().or_else(|| receivers.get(&args.key.0).cloned()).unwrap_or_default();
        receivers.insert(args.key.0, name);
        Ok(())
    })?;
    changed(args.json, &file, &format!("{} may receive channel {}; {TAKE_UP}", args.key.0, file.name))
}

fn revoke(args: &ChannelRevokeArgs) -> Result<(), Failure> {
    let file = KeyFile::change(&args.file, |file| {
        if list(file, &args.file)?.0.remove(&args.key.0).is_none() {
            let path = args.file.display();
            return Err(Failure::usage(format_args!(
                "{} is not on the list of {path}: nothing was changed",
                args.key.0
            )));
        }
        file.rotate()
    })?;
    let epoch = file.admission.epoch;
    let line = format!(
        "{} is off the list of channel {}, and can read nothing from epoch {epoch} on; {TAKE_UP}",
        args.key.0, file.name
    );
    changed(args.json, &file, &line)
}

fn rotate(args: &ChannelRotateArgs) -> Result<(), Failure> {
    let file = KeyFile::change(&args.file, KeyFile::rotate)?;
    tracing::info!("channel {} goes over to epoch {}; {TAKE_UP}", file.name, file.admission.epoch);
    let ticket = file.admission.receivers.is_none().then(|| file.ticket().to_string());
    let line = ticket.unwrap_or_else(|| format!("channel {} goes over to epoch {}", file.name, file.admission.epoch));
    changed(args.json, &file, &line)
}

/// The list of a key file that has one, and how long it is.
fn list<'a>(file: &'a mut KeyFile, path: &Path) -> Result<(&'a mut BTreeMap<VerifyingKey, String>, usize), Failure> {
    let receivers = file.admission.receivers.as_mut().ok_or_else(|| {
        Failure::usage(format_args!(
            "key file {} has no list of receivers, since its tickets hold the secret: make a channel with \
             `--admission allow-list`, or revoke all tickets with `nackcast channel rotate`",
            path.display()
        ))
    })?;
    let count = receivers.len();
    Ok((receivers, count))
}

fn changed(json: bool, file: &KeyFile, line: &str) -> Result<(), Failure> {
    if !json {
        return print(line);
    }
    print_json(&Changed {
        channel: file.channel.to_string(),
        name: &file.name,
        epoch: file.admission.epoch.0,
        receivers: file.admission.receivers.as_ref().map(BTreeMap::len),
        ticket: file.admission.receivers.is_none().then(|| file.ticket().to_string()),
    })
}

fn show(json: bool, file: &KeyFile, key_file: Option<&Path>, ticket_file: Option<&Path>) -> Result<(), Failure> {
    let ticket = file.ticket().to_string();
    if !json {
        return print(&ticket);
    }
    let channel = file.channel.to_string();
    print_json(&Printed { channel, name: &file.name, advertise: file.advertise, key_file, ticket_file, ticket })
}

/// A channel with fresh keys.
fn fresh(name: &str, advertise: Option<SocketAddr>, senders: Vec<String>) -> Result<KeyFile, Failure> {
    let mut id = [0; 16];
    fill_random(&mut id);
    let advertise = advertise.unwrap_or_else(|| default_address(ChannelId(id)));
    check_advertise(advertise).map_err(|problem| Failure::usage(format_args!("--advertise {advertise}: {problem}")))?;
    if [advertise.port(), advertise.port() + 1].iter().any(|port| LISTEN_PORTS.contains(port)) {
        return Err(Failure::usage(format_args!(
            "--advertise {advertise}: senders listen on ports 7701 and 7702, and advertisements and data need two \
             others: take another port, such as {DEFAULT_PORT}"
        )));
    }
    Ok(KeyFile {
        channel: ChannelId(id),
        name: name.to_owned(),
        advertise,
        senders,
        admission: Admission { epoch: Epoch(1), receivers: None },
        master: SenderMaster::generate(),
        authority: Authority::Publisher(SigningKey::generate()),
    })
}

/// A group of the organisation-local scope (239.192.0.0/14, RFC 2365), so that channels rarely share one.
fn default_address(channel: ChannelId) -> SocketAddr {
    let [a, b, c, ..] = channel.0;
    SocketAddr::new(Ipv4Addr::new(239, 192 | (a & 3), b, c).into(), DEFAULT_PORT)
}

/// A name becomes a file name and stands in messages.
fn check_name(name: &str) -> Result<(), Failure> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > NAME_LEN_MAX {
        "is longer than 200 bytes"
    } else if name.starts_with(['.', '-']) {
        "begins with a dot or a dash"
    } else if name.contains(|c: char| c == '/' || c.is_control()) {
        "contains a slash or a control character"
    } else {
        return Ok(());
    };
    Err(Failure::usage(format_args!("channel name {name:?} {problem}: choose a plain name; --out says where files go")))
}

/// `NAME.ticket` beside `NAME.key`.
fn ticket_path(key_path: &Path) -> PathBuf {
    if key_path.extension().is_some_and(|extension| extension == "key") {
        return key_path.with_extension("ticket");
    }
    let mut path = key_path.as_os_str().to_owned();
    path.push(".ticket");
    path.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn default_addresses_are_organisation_local(id: [u8; 16]) {
            let address = default_address(ChannelId(id));
            prop_assert!(check_advertise(address).is_ok());
            prop_assert!(address.to_string().starts_with("239.19"));
        }
    }

    #[test]
    fn the_ticket_stands_beside_the_key() {
        assert_eq!(ticket_path(Path::new("/etc/a.b.key")), Path::new("/etc/a.b.ticket"));
        assert_eq!(ticket_path(Path::new("a.b")), Path::new("a.b.ticket"));
        assert_eq!(ticket_path(Path::new("a.ticket")), Path::new("a.ticket.ticket"));
    }

    #[test]
    fn names_that_are_no_file_names_are_refused() {
        for bad in ["", "a/b", "..", "-x", "a\nb", &"x".repeat(201)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name("Nachrichten 2026 (größer)").is_ok());
    }
}
