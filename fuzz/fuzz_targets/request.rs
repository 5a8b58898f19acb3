//! Any request to the routes, without a socket: method, target, headers and body, one a line.
#![no_main]

use std::sync::LazyLock;

use async_task_system::fuzzing::Routes;

static ROUTES: LazyLock<Routes> = LazyLock::new(Routes::new);

libfuzzer_sys::fuzz_target!(|text: &str| ROUTES.check(text));
