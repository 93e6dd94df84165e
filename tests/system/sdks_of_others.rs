//! The other APIs and providers through Envoy, with their own SDKs. Their prices are not the filter's
//! business: what it settles is compared with the bill class by class.

use purser_protocol::{Deny, DenyReason, Ending, UsageQuality, Verdict};
use serde_json::Value;
use system_tests::fake_llm::FakeLlm;
use system_tests::harness::scripted::Script;
use system_tests::harness::sdk::{assert_same, run};
use system_tests::harness::stack::Setup;
use system_tests::harness::wait_until;

use crate::billing::{assert_billed, settlements};

/// An SDK, and what its calls are.
struct Sdk {
    driver: &'static str,
    /// The filter's `provider`.
    provider: &'static str,
    /// Calls that are metered.
    metered: &'static [&'static str],
    /// Calls that the provider refuses; they are metered, and cost nothing.
    refused: &'static [&'static str],
    /// Whether the API tells how much of the output is reasoning.
    tells_reasoning: bool,
}

impl Sdk {
    /// Makes the calls on both ways; compares what was seen, then what was settled with the bill.
    async fn check(&self) {
        // One worker: calls that follow each other are settled in that order.
        let setup = Setup::default().provider(self.provider).one_worker();
        let stack = setup.start_scripted(Script::Allow).await;
        let direct = FakeLlm::start().await.unwrap();
        let calls = [self.metered, self.refused].concat();
        let expected = run(self.driver, direct.addr, "acme", &calls).await;
        let seen = run(self.driver, stack.envoy.egress, "acme", &calls).await;
        assert_same(&expected, &seen, &calls);
        assert_eq!(stack.fake.received().attempts, calls.len() as u64, "one request for each call");
        let settled = settlements(&stack, calls.len()).await;
        let bill = stack.fake.billed().rows;
        assert_eq!(bill, direct.billed().rows, "the provider bills the same on both ways");
        assert_eq!(bill.len(), self.metered.len(), "{bill:?}");
        let (metered, refused) = settled.split_at(self.metered.len());
        for (name, (settlement, billed)) in self.metered.iter().zip(metered.iter().zip(&bill)) {
            assert_billed(name, settlement, billed, self.tells_reasoning);
        }
        for settlement in refused {
            assert_eq!(settlement.usage.classes(), [0; 10], "{settlement:?}");
            assert!(settlement.http_status >= 400, "{settlement:?}");
        }
        stack.assert_healthy().await;
    }

    /// Checks that a denial reaches the app as this exception, or as one of its kinds, after one
    /// request.
    async fn check_denial(&self, class: &str) {
        let deny =
            Deny { reason: DenyReason::OverBudget, message: "No more money.".to_owned(), ..Deny::default() };
        let script = Script::Verdict(Box::new(Verdict::Deny(deny)));
        let stack = Setup::default().provider(self.provider).start_scripted(script).await;
        let calls = ["denied", "denied_stream"];
        let seen = run(self.driver, stack.envoy.egress, "acme", &calls).await;
        for name in calls {
            let failure = &seen[name]["failure"];
            let classes = failure["classes"].as_array().cloned().unwrap_or_default();
            assert!(classes.contains(&Value::from(class)), "{name}: {failure}");
            assert_eq!(seen[name]["chunks"], Value::Array(Vec::new()), "{name}: {failure}");
        }
        assert_eq!(stack.backend.holds().len(), calls.len(), "no SDK asks again");
        assert_eq!(stack.fake.received().attempts, 0);
        stack.assert_healthy().await;
    }

    /// Checks that a client that leaves a stream is charged what came.
    async fn check_abort(&self) {
        let setup = Setup::default().provider(self.provider);
        let stack = setup.start_scripted(Script::Allow).await;
        let direct = FakeLlm::start().await.unwrap();
        let expected = run(self.driver, direct.addr, "acme", &["abort"]).await;
        let seen = run(self.driver, stack.envoy.egress, "acme", &["abort"]).await;
        assert_same(&expected, &seen, &["abort"]);
        let settlement = &settlements(&stack, 1).await[0];
        assert_eq!(settlement.ending, Ending::ClientGone, "{settlement:?}");
        assert_eq!(settlement.usage_quality, UsageQuality::AtLeast, "{settlement:?}");
        assert!(settlement.usage.output_tokens >= 1, "{settlement:?}");
        wait_until("the provider to see it", async || match stack.fake.billed().rows.as_slice() {
            [row] if !row.complete => Ok(()),
            rows => Err(format!("{rows:?}")),
        })
        .await;
        stack.assert_healthy().await;
    }
}

const RESPONSES: Sdk = Sdk {
    driver: "openai_calls",
    provider: "openai",
    metered: &[
        "responses",
        "responses_stream",
        "responses_tools",
        "responses_capped",
        "responses_failed",
        "responses_search",
        "responses_helper",
    ],
    refused: &[],
    tells_reasoning: true,
};

const OLDER_OPENAI: Sdk = Sdk {
    driver: "openai_calls",
    provider: "openai",
    metered: &[
        "embeddings",
        "embeddings_float",
        "completions",
        "completions_stream",
        "completions_stream_usage",
    ],
    refused: &[],
    tells_reasoning: true,
};

const AZURE: Sdk = Sdk {
    driver: "openai_calls",
    provider: "azure",
    metered: &["azure", "azure_stream", "azure_stream_usage"],
    refused: &[],
    tells_reasoning: true,
};

const ANTHROPIC: Sdk = Sdk {
    driver: "anthropic_calls",
    provider: "anthropic",
    metered: &[
        "plain",
        "tools",
        "search",
        "stream",
        "stream_search",
        "stream_capped",
        "stream_error",
        "helper",
        "helper_tools",
        "async",
    ],
    refused: &["refused"],
    tells_reasoning: true,
};

const GOOGLE: Sdk = Sdk {
    driver: "google_calls",
    provider: "gemini",
    metered: &["plain", "two", "tools", "stream", "stream_tools", "stream_capped", "stream_error"],
    refused: &["failed"],
    tells_reasoning: true,
};

const BEDROCK: Sdk = Sdk {
    driver: "bedrock_calls",
    provider: "bedrock",
    metered: &[
        "plain",
        "tools",
        "stream",
        "stream_tools",
        "stream_capped",
        "stream_error",
        "invoke",
        "invoke_stream",
    ],
    refused: &["failed"],
    tells_reasoning: false,
};

const COHERE: Sdk = Sdk {
    driver: "cohere_calls",
    provider: "cohere",
    metered: &["plain", "stream", "stream_capped"],
    refused: &["failed"],
    tells_reasoning: false,
};

const MISTRAL: Sdk = Sdk {
    driver: "mistral_calls",
    provider: "mistral",
    metered: &["plain", "stream", "stream_capped"],
    refused: &["failed"],
    tells_reasoning: true,
};

const OLLAMA: Sdk = Sdk {
    driver: "ollama_calls",
    provider: "ollama",
    metered: &["plain", "stream", "stream_error", "generate", "generate_stream"],
    refused: &["failed"],
    tells_reasoning: false,
};

#[tokio::test(flavor = "multi_thread")]
async fn openai_responses() {
    RESPONSES.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_embeddings_and_completions() {
    OLDER_OPENAI.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azure() {
    AZURE.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic() {
    ANTHROPIC.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_left_and_denied() {
    ANTHROPIC.check_abort().await;
    ANTHROPIC.check_denial("RateLimitError").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_tokens_is_free() {
    let stack = Setup::default().provider("anthropic").start_scripted(Script::Allow).await;
    let direct = FakeLlm::start().await.unwrap();
    let expected = run("anthropic_calls", direct.addr, "acme", &["count"]).await;
    let seen = run("anthropic_calls", stack.envoy.egress, "acme", &["count"]).await;
    assert_same(&expected, &seen, &["count"]);
    assert_eq!(stack.backend.holds(), []);
    stack.assert_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google() {
    GOOGLE.check().await;
    GOOGLE.check_denial("ClientError").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bedrock() {
    BEDROCK.check().await;
    BEDROCK.check_denial("ServiceQuotaExceededException").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cohere() {
    COHERE.check().await;
    COHERE.check_denial("ApiError").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistral() {
    MISTRAL.check().await;
    MISTRAL.check_denial("SDKError").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ollama() {
    OLLAMA.check().await;
    OLLAMA.check_denial("ResponseError").await;
}
