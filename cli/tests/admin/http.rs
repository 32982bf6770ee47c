//! `/metrics` and `/healthz`, as a plain HTTP client reads them.

use nackcast_testbed::netns::with_namespaces;

use crate::stage::{Stage, alone, end};

#[test]
fn metrics_are_read_by_a_plain_client() {
    let _alone = alone();
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
        ] {
            assert!(body.contains(&line), "no {line} in\n{body}");
        }
        assert!(body.ends_with("# EOF\n"));
        stage.until_channel("sender", "its receiver has reported", |channel| channel["receivers_complete"] == 1);
        let (_, body) = stage.get("sender", 9100, "/metrics", "");
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains("nackcast_receivers_complete{channel=\"news\",role=\"sender\"} 1"), "{body}");
        let (head, body) = stage.get("sender", 9100, "/healthz", "");
        assert!(head.starts_with("http/1.1 200") && body == b"ok\n", "{head}");
        assert!(stage.get("sender", 9100, "/", "").0.starts_with("http/1.1 404"));
        end(&mut receiver);
        end(&mut sender);
    });
}
