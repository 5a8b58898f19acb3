use serde_json::json;

use crate::support::{DOCUMENT, TestServer};

#[test]
fn the_document_is_served_as_it_stands_in_this_version() {
    let server = TestServer::start(&[]);
    let reply = server.get("/openapi.json").expect(200);
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
    assert_eq!(reply.header("X-App-Session"), None, "it is everybody's");
    let mut served = reply.json();
    assert_eq!(served["info"]["version"], env!("CARGO_PKG_VERSION"));
    served["info"]["version"] = json!("0.0.0");
    assert_eq!(served, *DOCUMENT);
}
