use super::*;

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn request(held: &[(&str, &str)], wanted: &[(&str, &str)]) -> (String, serde_json::Value) {
    let own = "n1".parse().expect("a name");
    let request = publication(&own, "u", &texts(wanted), &texts(held)).expect("a request");
    let kind = request.headers()[http::header::CONTENT_TYPE]
        .to_str()
        .expect("text");
    let body = serde_json::from_slice(request.body()).expect("JSON");
    (kind.to_owned(), body)
}

#[test]
fn a_record_is_applied_with_the_uid_of_its_node() {
    let (kind, body) = request(
        &[("podwire.dev/mode", "garbage")],
        &[("podwire.dev/mode", "x")],
    );
    assert_eq!(kind, "application/apply-patch+yaml");
    assert_eq!(body["kind"], "Node");
    assert_eq!(body["metadata"]["uid"], "u");
    assert_eq!(
        body["metadata"]["annotations"],
        json!({ "podwire.dev/mode": "x" })
    );
}

#[test]
fn what_somebody_else_put_beside_the_record_is_removed_with_it() {
    let held = [("podwire.dev/mode", "x"), ("podwire.dev/epoch", "9")];
    let (kind, body) = request(&held, &[("podwire.dev/mode", "x")]);
    assert_eq!(kind, "application/merge-patch+json");
    let expected = json!({ "podwire.dev/mode": "x", "podwire.dev/epoch": null });
    assert_eq!(body["metadata"]["annotations"], expected);
    assert_eq!(body["metadata"]["uid"], "u");
}
