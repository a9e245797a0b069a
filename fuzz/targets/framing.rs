//! The strict reader: it judges pieces as it judges the whole, and where it takes a head, the
//! parser behind it ends that head at the same byte.
#![no_main]

use bottle_sidecar::fuzzing::framing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let whole = framing(bytes, usize::MAX);
    assert_eq!(whole.is_ok(), framing(bytes, usize::from(size).max(1)).is_ok());
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4) else {
        return;
    };
    if whole.is_ok() {
        let mut headers = [httparse::EMPTY_HEADER; 4096];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(bytes).map(|status| status.is_complete().then_some(status));
        match parsed {
            Ok(Some(status)) => assert_eq!(status.unwrap(), end),
            // hyper refuses more headers than that, too.
            Err(httparse::Error::TooManyHeaders) => {}
            other => panic!("{other:?}"),
        }
    }
});
