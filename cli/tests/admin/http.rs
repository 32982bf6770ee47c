//! `/metrics`, `/healthz` and content, as a plain HTTP client reads them.

use std::io::{Read, Write};
use std::net::TcpStream;

use nackcast_testbed::netns::with_namespaces;

use crate::stage::{Stage, end, noise, until, with_others};

#[test]
fn metrics_are_read_by_a_plain_client() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        let mut sender = stage.send(&["--http", "0.0.0.0:9100"]);
        let mut receiver = stage.receive(&["--http", "0.0.0.0:9100"]);
        let generation = stage.until_complete();
        let (head, body) = stage.get("receiver", 9100, "/metrics", "");
        let body = String::from_utf8(body).unwrap();
        assert!(head.starts_with("http/1.1 200") && head.contains("openmetrics-text"), "{head}");
        for line in [
            format!("nackcast_generation{{channel=\"news\",role=\"receiver\"}} {generation}"),
            "nackcast_complete{channel=\"news\",role=\"receiver\"} 1".to_owned(),
            "# TYPE nackcast_wire_bytes counter".to_owned(),
            "nackcast_unicast_given_bytes_total{channel=\"news\",role=\"receiver\"} 0".to_owned(),
            "nackcast_unicast_pulled_bytes_total{channel=\"news\",role=\"receiver\"} 0".to_owned(),
        ] {
            assert!(body.contains(&line), "no {line} in\n{body}");
        }
        assert!(body.ends_with("# EOF\n"));
        stage.until_channel("sender", "its receiver has reported", |channel| channel["receivers_complete"] == 1);
        let (_, body) = stage.get("sender", 9100, "/metrics", "");
        let body = String::from_utf8(body).unwrap();
        for line in [
            "nackcast_receivers_complete{channel=\"news\",role=\"sender\"} 1",
            "nackcast_serving{channel=\"news\",role=\"sender\"} 1",
            "nackcast_sender_role{channel=\"news\",sender_role=\"primary\",state=\"active\"} 1",
        ] {
            assert!(body.contains(line), "no {line} in\n{body}");
        }
        let (head, body) = stage.get("sender", 9100, "/healthz", "");
        assert!(head.starts_with("http/1.1 200") && body == b"ok\n", "{head}");
        assert!(stage.get("sender", 9100, "/", "").0.starts_with("http/1.1 404"));

        // Content, from a receiver only, and only what is verified.
        let first = noise(1, 700_000);
        let (head, body) = stage.get("receiver", 9100, "/content/news/first", "");
        let etag = format!("etag: \"{}\"", blake3::hash(&first));
        assert!(head.starts_with("http/1.1 200") && head.contains(&etag) && body == first, "{head}");
        let (head, body) = stage.get("receiver", 9100, "/content/news/first", "Range: bytes=699990-\r\n");
        assert!(head.starts_with("http/1.1 206") && head.contains("bytes 699990-699999/700000"), "{head}");
        assert_eq!(body, first[699_990..]);
        let same = format!("If-None-Match: \"{}\"\r\n", blake3::hash(&first));
        assert!(stage.get("receiver", 9100, "/content/news/first", &same).0.starts_with("http/1.1 304"));
        std::fs::write(stage.target().join("not-of-the-dataset"), "x").unwrap();
        for path in ["not-of-the-dataset", "..%2Freceiver%2Fnode.json", ".nackcast.part", "%2Fetc%2Fpasswd"] {
            let (head, _) = stage.get("receiver", 9100, &format!("/content/news/{path}"), "");
            assert!(head.starts_with("http/1.1 404"), "{path}: {head}");
        }
        std::fs::write(stage.target().join("second"), "damaged").unwrap();
        assert!(stage.get("receiver", 9100, "/content/news/second", "").0.starts_with("http/1.1 503"));
        assert!(stage.get("sender", 9100, "/content/news/first", "").0.starts_with("http/1.1 404"));
        // Something critical: a file cannot be put where it belongs.
        let place = stage.target().join("first");
        std::fs::remove_file(&place).unwrap();
        std::fs::create_dir_all(place.join("of somebody")).unwrap();
        stage.json("receiver", &["scan"]);
        until("the node is not well", || {
            let (head, body) = stage.get("receiver", 9100, "/healthz", "");
            (head.starts_with("http/1.1 503") && body == b"1 critical alerts\n").then_some(())
        });
        let (_, body) = stage.get("receiver", 9100, "/metrics", "");
        let body = String::from_utf8(body).unwrap();
        let line = "nackcast_alerts{kind=\"not-installed\",severity=\"critical\",channel=\"news\"} 1";
        assert!(body.contains(line), "{body}");
        std::fs::remove_dir_all(&place).unwrap();
        stage.json("receiver", &["scan"]);
        until("the node is well", || {
            stage.get("receiver", 9100, "/healthz", "").0.starts_with("http/1.1 200").then_some(())
        });
        let (_, body) = stage.get("receiver", 9100, "/metrics", "");
        assert!(!String::from_utf8(body).unwrap().contains("not-installed"));
        end(&mut receiver);
        end(&mut sender);
    });
}

/// Of those who read nothing only so many are given files, and everybody else is served.
#[test]
fn clients_that_read_nothing_hold_nobody_up() {
    let _turn = with_others();
    with_namespaces(|| {
        let stage = Stage::new();
        // More than the buffers of a connection take.
        std::fs::write(stage.source().join("large"), noise(3, 16 << 20)).unwrap();
        let mut sender = stage.send(&[]);
        let mut receiver = stage.receive(&["--http", "0.0.0.0:9100"]);
        stage.until_complete();
        let mut clients: Vec<TcpStream> = (0..70).map(|_| stage.connect("receiver", 9100)).collect();
        let mut codes = Vec::new();
        for client in &mut clients {
            write!(client, "GET /content/news/large HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut head = [0; 12];
            client.read_exact(&mut head).unwrap();
            codes.push(String::from_utf8_lossy(&head[9..]).into_owned());
        }
        let count = |code: &str| codes.iter().filter(|found| *found == code).count();
        assert_eq!((count("200"), count("503")), (64, 6), "{codes:?}");
        assert!(stage.get("receiver", 9100, "/healthz", "").0.starts_with("http/1.1 200"));
        assert!(stage.get("receiver", 9100, "/metrics", "").0.starts_with("http/1.1 200"));
        let (head, _) = stage.get("receiver", 9100, "/content/news/first", "");
        assert!(head.starts_with("http/1.1 503") && head.contains("retry-after"), "{head}");
        drop(clients);
        until("places are free again", || {
            let (head, body) = stage.get("receiver", 9100, "/content/news/first", "");
            (head.starts_with("http/1.1 200") && body == noise(1, 700_000)).then_some(())
        });
        end(&mut receiver);
        end(&mut sender);
    });
}
