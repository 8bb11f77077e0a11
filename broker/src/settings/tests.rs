use super::*;

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn with(flags: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    Settings::resolve(&map(flags), |_| None, &BTreeMap::new())
}

fn message(flags: &[(&str, &str)]) -> String {
    with(flags).expect_err("must be refused").to_string()
}

#[test]
fn defaults_are_valid_and_serve_on_this_machine_only() {
    let settings = with(&[]).expect("defaults");
    assert_eq!(settings, Settings::default());
    assert_eq!(settings.kafka.to_string(), "127.0.0.1:9092");
    assert!(settings.auto_create_topics);
    assert_eq!(settings.cache_bytes, 128 << 20);
    assert_eq!(settings.connection_idle_ms, 600_000);
    assert!(settings.object_store_url().starts_with("file:///"));
    assert!(settings.object_store_url().ends_with("/data/objects"));
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let flags = map(&[("node_id", "4")]);
    let env = |name: &str| match name {
        "HIGHWATER_NODE_ID" => Some("3".to_owned()),
        "HIGHWATER_KAFKA" => Some("127.0.0.1:3".to_owned()),
        _ => None,
    };
    let file = parse_file("f", "node-id = 2\nkafka = '127.0.0.1:2'\ngrpc = '127.0.0.1:2'").expect("file");
    let settings = Settings::resolve(&flags, env, &file).expect("settings");
    assert_eq!(settings.node_id, 4);
    assert_eq!(settings.kafka.port, 3);
    assert_eq!(settings.grpc.port, 2);
    assert_eq!(settings.http.port, 9094);
}

#[test]
fn a_bad_value_names_the_place_that_it_came_from() {
    assert_eq!(
        message(&[("node_id", "0")]),
        "--node-id: \"0\" is not valid: a number from 1 to 2147483647 is needed"
    );
    let env = |name: &str| (name == "HIGHWATER_CACHE_BYTES").then(|| "lots".to_owned());
    let from_env = Settings::resolve(&BTreeMap::new(), env, &BTreeMap::new()).expect_err("bad");
    assert!(from_env.to_string().starts_with("HIGHWATER_CACHE_BYTES: \"lots\""), "{from_env}");
    let from_file =
        Settings::resolve(&BTreeMap::new(), |_| None, &map(&[("threads", "-1")])).expect_err("bad");
    assert!(from_file.to_string().starts_with("setting threads: \"-1\""), "{from_file}");
}

#[test]
fn unknown_and_odd_keys_of_the_file_are_refused_by_name() {
    let unknown = parse_file("h.toml", "data-dirr = '/x'").expect_err("unknown").to_string();
    assert!(unknown.contains("h.toml") && unknown.contains("data-dirr"), "{unknown}");
    let table = parse_file("h.toml", "[kafka]\nport = 1").expect_err("table").to_string();
    assert!(table.contains("kafka must be"), "{table}");
    let twice = parse_file("h.toml", "node-id = 1\nnode_id = 2").expect_err("twice").to_string();
    assert!(twice.contains("given twice"), "{twice}");
    let broken = parse_file("h.toml", "node-id = ").expect_err("syntax").to_string();
    assert!(!broken.contains('\n'), "{broken}");
    let roles =
        parse_file("h.toml", "roles = ['broker', 'coordinator']\nauto-create-topics = false").expect("ok");
    assert_eq!(roles["roles"], "broker,coordinator");
    assert_eq!(roles["auto_create_topics"], "false");
}

#[test]
fn roles_and_coordinators_must_agree_and_say_how() {
    assert!(message(&[("roles", "broker")]).contains("set coordinators"));
    assert!(message(&[("roles", "cook")]).contains("\"cook\" is no role"));
    assert!(message(&[("coordinators", "1=a:1,2=b:1")]).contains("1, 3 or 5"));
    assert!(message(&[("coordinators", "1=a:1,2=a:1,3=c:1")]).contains("a:1 is listed twice"));
    assert!(message(&[("coordinators", "1=a:1,1=b:1,3=c:1")]).contains("node 1 is listed twice"));
    assert!(message(&[("coordinators", "1=a:0")]).contains("connect"));
    assert!(message(&[("coordinators", "a:1")]).contains("ID=HOST:PORT"));
    assert!(message(&[("coordinators", "2=a:1")]).contains("names the nodes 2"));
    with(&[("coordinators", "1=127.0.0.1:9093")]).expect("itself");
    let three = "7=a:1,8=b:1,9=c:1";
    with(&[("node_id", "7"), ("coordinators", three)]).expect("one of three");
    with(&[("node_id", "1"), ("coordinators", three), ("roles", "broker")]).expect("a broker alone");
    assert!(
        message(&[("node_id", "7"), ("coordinators", three), ("roles", "broker")]).contains("no such role")
    );
    let everywhere = [("node_id", "1"), ("coordinators", three), ("roles", "broker"), ("grpc", "0.0.0.0:9")];
    assert!(message(&everywhere).contains("set advertise-grpc"));
    assert!(message(&[("advertise_grpc", "0.0.0.0:9")]).contains("host name"));
    assert!(message(&[("default_replication_factor", "0")]).contains("1 to 32767"));
}

#[test]
fn addresses_stores_and_sizes_are_checked() {
    for bad in ["", "x", ":1", "a b:1", "a:70000", "a:-1", "::1:9092", "[::1:9092", "a/b:1"] {
        assert!(parse::address(bad).is_err(), "{bad}");
    }
    assert_eq!(parse::address("[::1]:9092").expect("v6").to_string(), "[::1]:9092");
    for bad in ["/tmp", "file://x", "file:///", "s3://", "s3:///p", "http://x", "gs://b"] {
        assert!(parse::optional_object_store(bad).is_err(), "{bad}");
    }
    for good in ["file:///tmp/x", "s3://bucket", "s3://bucket/a/b"] {
        assert!(parse::optional_object_store(good).is_ok(), "{good}");
    }
    assert!(message(&[("s3_endpoint", "http://127.0.0.1:9000")]).contains("object-store"));
    assert!(message(&[("kafka", "0.0.0.0:9092")]).contains("set advertise"));
    with(&[("kafka", "0.0.0.0:9092"), ("advertise", "broker.example:9092")]).expect("advertised");
    assert_eq!(parse::bytes_or_zero("3 KiB"), Ok(3072));
    assert!(parse::bytes("1KiB").is_err());
    assert!(parse::bytes_or_zero("99999999999TiB").is_err());
    assert_eq!(parse::millis("10ms"), Ok(10));
    assert_eq!(parse::millis("2h"), Ok(7_200_000));
    assert!(parse::millis("0").is_err() && parse::millis("-5s").is_err() && parse::millis("9999h").is_err());
}

#[test]
fn the_printed_reference_is_the_one_in_docs() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
    let recorded = std::fs::read_to_string(path).expect("docs/settings.md exists");
    assert_eq!(recorded, Reference.to_string(), "run `highwater serve --print-settings > docs/settings.md`");
}
