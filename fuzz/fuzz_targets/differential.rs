//! Any bytes as a request's head: what is accepted here, another parser accepts too, and reads the same.
#![no_main]

const MAX_HEADERS: usize = 100;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((length, method, target, ours)) = async_task_system::fuzzing::head_parts(bytes) else {
        return;
    };
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let read = request.parse(&bytes[..length]).expect("the other parser accepts it");
    assert_eq!(read, httparse::Status::Complete(length));
    assert_eq!((request.method, request.path), (Some(&*method), Some(&*target)));
    assert_eq!(request.headers.len(), ours.len());
    for (theirs, (name, value)) in request.headers.iter().zip(&ours) {
        assert_eq!(theirs.name, name);
        assert_eq!(String::from_utf8_lossy(theirs.value).trim_ascii(), value);
    }
});
