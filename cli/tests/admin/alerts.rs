//! Alerts of real nodes: raised, listed, followed, acknowledged, kept.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use nackcast_testbed::netns::with_namespaces;
use serde_json::Value;

use crate::doctor::{allow, forbid};
use crate::stage::{Stage, end, program, until, with_others};

fn kinds(alerts: &Value) -> Vec<&str> {
    alerts["alerts"].as_array().unwrap().iter().map(|alert| alert["kind"].as_str().unwrap()).collect()
}

#[test]
fn damage_is_healed_told_and_remembered() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        let mut sender = stage.send(&[]);
        let mut receiver = stage.receive(&[]);
        stage.until_complete();
        let mode = stage.path("receiver/admin.sock").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(stage.ask("receiver", &["status", "--check"]).status.code(), Some(0));
        let mut follow = Command::new(program());
        follow.args(["alerts", "--follow", "--json", "--node"]).arg(stage.path("receiver"));
        let follow = follow.stdout(Stdio::piped()).spawn().unwrap();

        std::fs::write(stage.target().join("first"), "overwritten").unwrap();
        let scanned = stage.json("receiver", &["scan"]);
        assert_eq!(scanned["results"][0]["damaged"], 1, "{scanned}");
        let wrong = until("the damage is told", || {
            let alerts = stage.json("receiver", &["alerts"]);
            (!kinds(&alerts).is_empty()).then_some(alerts)
        });
        assert_eq!(kinds(&wrong), ["content-damaged"]);
        let alert = &wrong["alerts"][0];
        assert!(alert["text"].as_str().unwrap().contains("first") && alert["count"] == 1, "{alert}");
        assert!(!alert["check"].as_str().unwrap().is_empty() && alert["channel"] == "news");
        let healed = || std::fs::metadata(stage.target().join("first")).ok().filter(|meta| meta.len() == 700_000);
        until("it is healed", healed);
        let checked = stage.ask("receiver", &["status", "--check"]);
        assert_eq!(checked.status.code(), Some(1), "{checked:?}");
        assert!(String::from_utf8_lossy(&checked.stdout).contains("content-damaged"));

        // It outlives the node, and an acknowledgement does, too.
        end(&mut receiver);
        let mut receiver = stage.receive(&[]);
        stage.until_complete();
        assert_eq!(kinds(&stage.json("receiver", &["alerts"])), ["content-damaged"]);
        let id = stage.json("receiver", &["alerts"])["alerts"][0]["id"].to_string();
        assert_eq!(stage.json("receiver", &["ack", &id])["acknowledged"], 1);
        assert_eq!(stage.ask("receiver", &["status", "--check"]).status.code(), Some(0));
        end(&mut receiver);
        let mut receiver = stage.receive(&[]);
        stage.until_complete();
        assert_eq!(kinds(&stage.json("receiver", &["alerts"])), Vec::<&str>::new());
        let all = stage.json("receiver", &["alerts", "--all"]);
        assert_eq!(all["alerts"][0]["state"], "acknowledged", "{all}");

        // Whoever followed heard of it, until the node ended.
        let followed = follow.wait_with_output().unwrap();
        let lines: Vec<Value> =
            String::from_utf8_lossy(&followed.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().any(|line| line["kind"] == "content-damaged"), "{lines:?}");
        end(&mut receiver);
        end(&mut sender);
    });
}

#[test]
fn a_wrong_ticket_is_told() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        let mut sender = stage.send(&[]);
        stage.until_channel("sender", "it serves", |channel| channel["state"] == "idle");
        stage.another_ticket("239.192.7.8");
        let mut receiver = stage.receive(&[]);
        until("the ticket is found wrong", || {
            let output = stage.ask("receiver", &["alerts", "--json"]);
            let alerts: Value = serde_json::from_slice(&output.stdout).ok()?;
            kinds(&alerts).contains(&"key-rejected").then_some(())
        });
        end(&mut receiver);
        end(&mut sender);
    });
}

#[test]
fn a_receiver_whose_nacks_do_not_arrive_says_so_until_they_do() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        let mut sender = stage.send(&[]);
        // What is sent unasked is over: whoever comes now has to ask.
        stage.until_channel("sender", "it serves", |channel| channel["state"] == "idle");
        forbid(&stage, "sender", "input", "udp dport 7701");
        // It would pull what nobody answers for.
        let mut receiver = stage.receive(&["--pull", "never"]);
        let told = || {
            let output = stage.ask("receiver", &["alerts", "--json"]);
            serde_json::from_slice::<Value>(&output.stdout).ok().filter(|alerts| alerts["alerts"].is_array())
        };
        let alerts = until("it is told", || told().filter(|alerts| !kinds(alerts).is_empty()));
        assert_eq!(kinds(&alerts), ["no-sender-answers"]);
        let check = alerts["alerts"][0]["check"].as_str().unwrap();
        assert!(check.contains("NACK port") && check.contains("doctor"), "{alerts}");
        allow(&stage, "sender");
        stage.until_complete();
        until("the alert is over", || told().filter(|alerts| kinds(alerts).is_empty()));
        end(&mut receiver);
        end(&mut sender);
    });
}
