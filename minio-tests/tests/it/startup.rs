//! What the start-up probe says of a store that cannot be used: one clear line, soon, exit code not 0.

use highwater_minio_tests::highwater::Spec;
use highwater_minio_tests::minio::Minio;
use highwater_minio_tests::process::free_port;
use highwater_minio_tests::step::step;
use highwater_minio_tests::work::Work;

fn refuses(what: &str, spec: &Spec, words: &[&str]) {
    let (status, took, said) = spec.start_and_fail();
    step(format!("start with {what}: it ended after {:.1} s", took.as_secs_f64()));
    assert!(status.code().is_some_and(|code| code != 0), "{what}: ended with {status}: {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.to_lowercase().contains("error")).collect();
    assert_eq!(errors.len(), 1, "{what}: wanted one line that says it, got: {said}");
    let line = errors[0].to_lowercase();
    assert!(
        words.iter().any(|word| line.contains(word)),
        "{what}: the line does not name the trouble: {line}"
    );
}

#[test]
fn a_store_that_cannot_be_used_is_named_in_one_line() {
    let work = Work::new("startup");
    let minio = Minio::start(&work);
    let spec = Spec::on_s3(&work, &minio.endpoint());
    refuses("a missing bucket", &spec.clone().flag("object-store", "s3://no-such-bucket/hw"), &["bucket"]);
    let wrong = spec.clone().env("AWS_SECRET_ACCESS_KEY", "not-the-secret");
    refuses("a wrong secret", &wrong, &["credential", "secret", "signature", "denied"]);
    let unknown = spec.clone().env("AWS_ACCESS_KEY_ID", "nobody");
    refuses("an unknown key", &unknown, &["credential", "key", "denied"]);
    let dead = spec.clone().flag("s3-endpoint", &format!("http://127.0.0.1:{}", free_port()));
    refuses("a dead endpoint", &dead, &["connect", "reach", "refused"]);
    step("the same node on the right store");
    spec.start().stop();
}
