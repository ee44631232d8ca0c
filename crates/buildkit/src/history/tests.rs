use super::*;
use crate::rpc::Code;

fn names(history: &History) -> Vec<String> {
    lock(&history.builds).keys().cloned().collect()
}

#[test]
fn records_outlive_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("builds");
    let history = History::open(place.clone());
    let exporter = Typed { kind: "moby".to_owned(), attrs: BTreeMap::new() };
    let good = history.begin("../good", std::slice::from_ref(&exporter)).unwrap();
    good.asked("dockerfile.v0", &BTreeMap::from([("target".to_owned(), "t".to_owned())]));
    good.note(&StatusResponse { vertexes: vec![Default::default()], ..StatusResponse::default() });
    assert_eq!((good.record().total_steps, good.has_ended()), (1, false));
    let results = BTreeMap::from([(String::new(), ResultInfo::default())]);
    history.end(&good, Ok(Came { response: BTreeMap::new(), results }));
    let bad = history.begin("bad", &[]).unwrap();
    history.end(&bad, Err(&Status::new(Code::CANCELLED, "no more")));
    let _cut = history.begin("cut", &[]).unwrap();
    let again = History::open(place.clone());
    assert_eq!(names(&again), ["../good", "bad"]);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 2, "nothing is left of one that was cut short");
    let (found, failed) = (again.build("../good").unwrap().record(), again.build("bad").unwrap().record());
    assert_eq!(found, good.record());
    assert_eq!((&found.frontend_attrs["target"], found.total_steps, &found.exporters[0]), (&"t".into(), 1, &exporter));
    assert!(found.result.is_some() && found.error.is_none());
    assert_eq!(failed.error.unwrap().message, "no more");
    for blob in [found.logs.unwrap(), failed.external_error.unwrap()] {
        let bytes = fs::read(again.blob(&blob.digest).unwrap()).unwrap();
        assert_eq!((Digest::of(&bytes).to_string(), bytes.len() as i64), (blob.digest, blob.size));
    }
    assert!(again.remove("bad") && !again.remove("bad"));
    assert_eq!(names(&again), ["../good"]);
}

#[test]
fn the_oldest_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let history = History::open(folder.path().join("builds"));
    for number in 0..MOST + 3 {
        let build = history.begin(&format!("{number:03}"), &[]).unwrap();
        history.end(&build, Ok(Came::default()));
        if number == 0 {
            lock(&build.record).pinned = true;
        }
    }
    let left = names(&history);
    assert_eq!((left.len(), &*left[0]), (MOST + 1, "000"), "what is pinned stays");
    let old = history.build(&left[1]).unwrap();
    lock(&old.record).completed_at = Some(Timestamp { seconds: 0, nanos: 0 });
    history.trim();
    assert_eq!(names(&history).len(), MOST);
}
