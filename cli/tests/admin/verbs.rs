//! Every verb that asks a running node.

use nackcast_testbed::netns::with_namespaces;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::stage::{Stage, end, noise, until, with_others};

fn is(state: &'static str) -> impl Fn(&Value) -> bool {
    move |channel| channel["state"] == state
}

#[test]
fn a_sender_and_a_receiver_do_what_an_admin_says() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        let mut sender = stage.send(&[]);
        let log = stage.path("completed");
        let hook = format!("echo $NACKCAST_CHANNEL $NACKCAST_GENERATION >> {}", log.display());
        let mut receiver = stage.receive(&["--on-complete", &hook]);
        let first = stage.until_complete();
        let heard = |channel: &Value| channel["receivers_complete"] == 1;
        let seen = stage.until_channel("sender", "its receiver has reported", heard);
        assert_eq!((&seen["generation"], &seen["name"]), (&first.into(), &"news".into()));

        // What there is.
        let objects = stage.json("sender", &["objects"]);
        let objects = objects["objects"].as_array().unwrap();
        let of = |path: &str| objects.iter().find(|object| object["path"] == path).unwrap().clone();
        assert!(of("first")["pass_count"].as_u64() >= Some(1), "{objects:?}");
        assert_eq!(of("(manifest)")["state"], "idle");
        let here = stage.json("receiver", &["objects", "--limit", "1"]);
        assert_eq!((here["objects"].as_array().unwrap().len(), &here["objects"][0]["state"]), (1, &"installed".into()));
        let text = String::from_utf8(stage.ask("sender", &["status", "--receivers"]).stdout).unwrap();
        let receiver_address = stage.address("receiver").to_string();
        for part in ["sender on", "news", &receiver_address, "complete", "1 of 1", "nothing is wrong"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }

        // A pause holds content back, whatever is published meanwhile.
        stage.json("sender", &["pause"]);
        stage.until_channel("sender", "it is paused", is("paused"));
        std::fs::write(stage.source().join("third"), noise(3, 400_000)).unwrap();
        let published = stage.json("sender", &["publish", "--channel", "news"]);
        let second = published["results"][0]["generation"].as_u64().unwrap();
        assert!(published["results"][0]["changed"] == true && second > first, "{published}");
        let sent = |channel: &Value| channel["wire_bytes"].as_u64().unwrap();
        let paused = stage.until_channel("sender", "it serves the new one", |c| c["generation"] == second);
        assert_eq!(paused["state"], "paused");
        assert!(!stage.target().join("third").exists());
        stage.json("sender", &["resume"]);
        let third = || std::fs::read(stage.target().join("third")).ok();
        until("the third file arrives", || third().filter(|bytes| *bytes == noise(3, 400_000)));
        let resumed = stage.until_channel("sender", "it is idle again", is("idle"));
        assert!(sent(&resumed) >= sent(&paused) + 400_000);

        // Rate, a new round, a drain that ends nothing.
        stage.json("sender", &["rate", "50mbit"]);
        stage.until_channel("sender", "it has the rate", |channel| channel["rate_limit_bps"] == 50_000_000);
        let before = sent(&stage.until_channel("sender", "it is idle", is("idle")));
        assert_eq!(stage.json("sender", &["resend", "third"])["objects"], 1);
        stage.until_channel("sender", "it was sent again", |channel| sent(channel) >= before + 400_000);
        stage.json("sender", &["drain"]);
        stage.until_channel("sender", "it is drained", is("drained"));
        stage.json("sender", &["resume"]);
        stage.until_channel("sender", "it is idle", is("idle"));

        // What is refused, and whose fault it is.
        for (node, arguments, part) in [
            ("receiver", &["pause"][..], "only a sender"),
            ("receiver", &["publish"], "only a sender"),
            ("sender", &["scan", "--deep"], "no deep scan"),
            ("sender", &["pause", "--channel", "sport"], "it has: news"),
            ("sender", &["resend", "no/such/file"], "no object"),
            ("sender", &["rate", "many"], "not a rate"),
            ("sender", &["ack", "99"], "no alert 99"),
            ("nowhere", &["status"], "is it running"),
        ] {
            let output = stage.ask(node, arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let code = if node == "nowhere" { 1 } else { 2 };
            assert!(output.status.code() == Some(code) && said.contains(part), "{arguments:?}: {output:?}");
        }

        // An empty directory is published only when asked for.
        for name in ["first", "second", "third"] {
            std::fs::remove_file(stage.source().join(name)).unwrap();
        }
        let refused = stage.json("sender", &["publish"]);
        assert!(refused["results"][0]["problems"][0].as_str().unwrap().contains("is it mounted"), "{refused}");
        let emptied = stage.json("sender", &["publish", "--allow-empty"]);
        assert!(emptied["results"][0]["generation"].as_u64().unwrap() > second, "{emptied}");
        let last = emptied["results"][0]["generation"].clone();
        stage.until_channel("receiver", "it follows", |channel| {
            channel["generation"] == last && is("complete")(channel)
        });

        // SIGTERM ends, after the commands for what was complete.
        end(&mut sender);
        end(&mut receiver);
        let completed = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<_> = completed.lines().collect();
        assert_eq!(lines.first(), Some(&format!("news {first}").as_str()), "{lines:?}");
        assert_eq!(lines.last(), Some(&format!("news {last}").as_str()), "{lines:?}");
        let mut again = stage.receive(&["--on-complete", &hook]);
        assert_eq!(Some(stage.until_complete()), last.as_u64());
        end(&mut again);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), completed, "once for each generation");
    });
}

#[test]
fn a_hangup_takes_up_the_rate_of_the_file_and_scans() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        let config = stage.path("send.toml");
        std::fs::write(&config, "rate = \"100mbit\"\n").unwrap();
        let mut sender = stage.send_with_file(&config);
        let first =
            stage.until_channel("sender", "it is idle", |c| is("idle")(c) && c["rate_limit_bps"] == 100_000_000);
        std::fs::write(&config, "rate = \"30mbit\"\n").unwrap();
        std::fs::write(stage.source().join("third"), noise(3, 10_000)).unwrap();
        sender.signal(Signal::SIGHUP).unwrap();
        let is_new = |channel: &Value| channel["generation"] != first["generation"];
        stage.until_channel("sender", "it reloads", |c| is_new(c) && c["rate_limit_bps"] == 30_000_000);
        end(&mut sender);
    });
}
