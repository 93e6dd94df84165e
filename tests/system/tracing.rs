//! The backend's part of a call belongs to the trace of the call.

use system_tests::harness::client::{App, ping};
use system_tests::harness::scripted::Script;
use system_tests::harness::stack::Setup;

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_asked_for_in_the_trace_of_its_call() {
    let stack = Setup::as_shipped().start_scripted(Script::Allow).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for trace in [parent, "", "00-nonsense"] {
        let app = App::of("acme").team("search").with("traceparent", trace);
        stack.chat(&app, &ping()).await.expect(200);
    }
    stack.chat(&App::of("acme").team("search"), &ping()).await.expect(200);
    assert_eq!(stack.backend.traces(), [Some(parent.to_owned()), None, None, None]);
    stack.assert_healthy().await;
}
