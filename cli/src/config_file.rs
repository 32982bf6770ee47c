//! TOML files whose keys are the options of a command. An error names file, line and key.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::failure::{Failure, OrFail};

/// Reads a file of options.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text =
        std::fs::read_to_string(path).or_usage(format_args!("configuration file {} cannot be read", path.display()))?;
    parse(&text).map_err(|problem| Failure::usage(format_args!("{}:{problem}", path.display())))
}

/// Parses options; the error begins with the line.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| describe(text, &error))
}

/// `LINE: key `KEY`: what is wrong`, as far as it is known.
fn describe(text: &str, error: &toml::de::Error) -> String {
    let mut message = error.message().trim().to_owned();
    if message.ends_with("expected a duration") {
        message.push_str(": give a time in quotes, as in \"10min\"");
    }
    let Some(span) = error.span() else {
        return format!(" {message}");
    };
    let before = text.get(..span.start.min(text.len())).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let through = text.get(..span.end.min(text.len())).unwrap_or(text);
    // A message such as "unknown field `rat`" names the key already.
    match key_at(through).filter(|key| !message.contains(&format!("`{key}`"))) {
        Some(key) => format!("{line}: key `{key}`: {message}"),
        None => format!("{line}: {message}"),
    }
}

/// The last key that was begun in `text`: a list may go over several lines.
fn key_at(text: &str) -> Option<&str> {
    text.lines().rev().find_map(|line| {
        let key = line.split_once('=').map_or(line, |(key, _)| key).trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (line.contains('=') && !key.is_empty() && key.chars().all(plain)).then_some(key)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;
    use crate::args::options::{ReceiveOptions, RoleOption, SendOptions};

    const SEND: &str = r#"
channel = ["/etc/nackcast/news.key=/srv/news"]
role = "primary"
rank = 0
peer = ["cdn2.example.net:7701"]
drain-limit = "10s"
epoch-overlap = "30s"
overwrite = false
interface = "eth1"
listen = "[::]:7701"
rate = "20mbit"
rate-floor = "1mbit"
rate-ceiling = "1gbit"
slow-receivers = "leave"
unicast-rate = "20mbit"
ttl = 8
dscp = 0
max-passes = 16
period = "2s"
max-jobs = 4
round-quiet = "10min"
late-after = "10min"
exclude = ["*.tmp"]
priority = ["*.m3u8=10"]
rescan = "10min"
no-watch = false
symbol-size = "1400"
block-size = "256KiB"
admin = "127.0.0.1:7800"
admin-cert = "/etc/nackcast/admin.pem"
admin-key = "/etc/nackcast/admin.key"
admin-ca = "/etc/nackcast/admin-ca.pem"
http = "127.0.0.1:9100"
state = "/var/lib/nackcast/news"
once = true
expect = 40
linger = "3s"
json = false
"#;
    const RECEIVE: &str = r#"
ticket = ["@/etc/nackcast/news.ticket"]
into = ["/srv/cache/news"]
interface = "eth1"
source = ["cdn1.example.net:7701"]
pull = "last"
serve-peers = false
listen = "[::]:7701"
unicast-rate = "20mbit"
admin = "127.0.0.1:7800"
admin-cert = "/etc/nackcast/admin.pem"
admin-key = "/etc/nackcast/admin.key"
admin-ca = "/etc/nackcast/admin-ca.pem"
on-complete = "systemctl reload nginx"
http = "127.0.0.1:9100"
state = "/var/lib/nackcast/news"
scan = "10min"
prune = false
overwrite = false
once = false
mode-mask = "0777"
nack-retry = "200ms"
nack-budget = 4
unicast-alert = 5
memory = "32MiB"
json = false
"#;

    /// Every option of the command, except those that are no configuration.
    fn options_of(command: &str) -> BTreeSet<String> {
        let cli = Cli::command();
        let found = cli.get_subcommands().find(|c| c.get_name() == command).unwrap();
        let no_key = ["config", "progress-json", "help", "verbose", "quiet"];
        found.get_arguments().filter_map(|a| a.get_long()).filter(|l| !no_key.contains(l)).map(str::to_owned).collect()
    }

    fn keys_of(text: &str) -> BTreeSet<String> {
        toml::from_str::<toml::Table>(text).unwrap().keys().cloned().collect()
    }

    #[test]
    fn every_option_is_a_key() {
        assert_eq!(options_of("send"), keys_of(SEND));
        assert_eq!(options_of("receive"), keys_of(RECEIVE));
        let send: SendOptions = parse(SEND).unwrap();
        assert_eq!((send.role, send.expect), (Some(RoleOption::Primary), Some(40)));
        assert_eq!(send.round_quiet, Some(Duration::from_secs(600)));
        assert_eq!(send.channel[0].directory.to_str(), Some("/srv/news"));
        let receive: ReceiveOptions = parse(RECEIVE).unwrap();
        assert_eq!(receive.memory.map(|size| size.0), Some(32 << 20));
        assert_eq!(receive.source[0].0, "cdn1.example.net:7701");
    }

    #[test]
    fn the_command_line_counts_more_than_the_file() {
        let file: SendOptions = parse(SEND).unwrap();
        let above = SendOptions { ttl: Some(3), exclude: vec!["*.bak".to_owned()], ..SendOptions::default() };
        let merged = above.or(file);
        assert_eq!((merged.ttl, merged.expect), (Some(3), Some(40)));
        assert_eq!(merged.exclude, ["*.bak"]);
        assert_eq!(merged.channel.len(), 1);
    }

    #[test]
    fn an_error_names_line_and_key() {
        let error = |text| parse::<SendOptions>(text).unwrap_err();
        assert!(error("ttl = 3\nrat = \"20mbit\"\n").starts_with("2: unknown field `rat`"), "{}", error("rat = 1"));
        assert!(error("ttl = 3\n\nrate = \"20 apples\"\n").starts_with("3: key `rate`: `20 apples` is not a rate"));
        assert!(error("channel = [\n  \"a.key\",\n]\n").contains("key `channel`: `a.key` is not FILE=DIR"));
        assert!(error("ttl = 300\n").starts_with("1: key `ttl`"), "{}", error("ttl = 300\n"));
        assert!(error("period = \"soon\"\n").starts_with("1: key `period`"));
        assert!(error("period = 600\n").ends_with("a time in quotes, as in \"10min\""), "{}", error("period = 600\n"));
        assert!(error("ttl = \n").starts_with("1: key `ttl`"), "{}", error("ttl = \n"));
    }
}
