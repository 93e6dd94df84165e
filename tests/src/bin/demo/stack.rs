//! The running parts, as the demonstration reaches them.

use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::Value;
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::Failure;

/// The org whose money is spent.
pub const ORG: &str = "acme";
/// The team of both users.
pub const TEAM: &str = "search";

/// Longest wait for a settlement.
const PATIENCE: Duration = Duration::from_secs(20);

/// The running parts.
pub struct Stack {
    /// Envoy, where apps call.
    pub egress_url: String,
    backend_url: String,
    fake_llm_url: String,
    admin_token: String,
    /// The backend's database.
    pub database: PgPool,
    /// A client for all of them.
    pub http: Client,
}

impl Stack {
    /// Reads the environment.
    ///
    /// # Errors
    /// Every mistake in it, a line each.
    pub fn from_environment() -> Result<Self, String> {
        let mut mistakes = Vec::new();
        let mut read = |name: &str, meaning: &str| {
            let value = std::env::var(name).unwrap_or_default();
            if value.is_empty() {
                mistakes.push(format!("  {name} is not set: {meaning}"));
            }
            value.trim_end_matches('/').to_owned()
        };
        let egress_url = read("EGRESS_URL", "where Envoy takes calls, such as http://127.0.0.1:10000");
        let backend_url = read("BACKEND_URL", "where the budget backend listens");
        let fake_llm_url = read("FAKE_LLM_URL", "where the fake provider listens");
        let admin_token = read("PURSER_ADMIN_TOKEN", "the backend's token for budgets");
        let database_url = read("DATABASE_URL", "the backend's database");
        if !mistakes.is_empty() {
            return Err(mistakes.join("\n"));
        }
        let http = Client::builder().no_proxy().timeout(PATIENCE).build();
        let database = PgPoolOptions::new().max_connections(2).connect_lazy(&database_url);
        Ok(Self {
            egress_url,
            backend_url,
            fake_llm_url,
            admin_token,
            database: database.map_err(|error| format!("  DATABASE_URL: {error}"))?,
            http: http.map_err(|error| format!("  no HTTP client: {error}"))?,
        })
    }

    /// Creates a budget.
    ///
    /// # Errors
    /// When the backend refuses.
    pub async fn create_budget(&self, budget: &Value) -> Result<(), Failure> {
        let url = format!("{}/v1/budgets", self.backend_url);
        let request = self.http.post(url).bearer_auth(&self.admin_token).json(budget);
        let response = request.send().await?;
        match response.status().as_u16() {
            201 => Ok(()),
            status => {
                Err(format!("the backend refused {budget}: {status} {}", response.text().await?).into())
            }
        }
    }

    /// The budgets, as the backend lists them.
    ///
    /// # Errors
    /// When it doesn't.
    pub async fn budgets(&self) -> Result<Vec<Value>, Failure> {
        let url = format!("{}/v1/budgets?org={ORG}", self.backend_url);
        let request = self.http.get(url).bearer_auth(&self.admin_token);
        let mut answer: Value = request.send().await?.error_for_status()?.json().await?;
        match answer["budgets"].take() {
            Value::Array(budgets) => Ok(budgets),
            _ => Err("the backend's answer has no list of budgets".into()),
        }
    }

    /// What the provider bills, or what it received (`billed`, `requests`).
    ///
    /// # Errors
    /// When it doesn't say.
    pub async fn provider(&self, page: &str) -> Result<Value, Failure> {
        let request = self.http.get(format!("{}/{page}", self.fake_llm_url));
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// The model that ran a call and what it cost, nano-USD, once it is settled.
    ///
    /// # Errors
    /// When it isn't settled in time.
    pub async fn settled(&self, hold_id: &str) -> Result<(String, i64), Failure> {
        let started = Instant::now();
        loop {
            let settled: Option<(String, i64)> = sqlx::query_as(
                "SELECT model, cost_nanousd FROM llm_requests WHERE org = $1 AND hold_id = $2::uuid",
            )
            .bind(ORG)
            .bind(hold_id)
            .fetch_optional(&self.database)
            .await?;
            match settled {
                Some(settled) => return Ok(settled),
                None if started.elapsed() > PATIENCE => {
                    return Err(format!("hold {hold_id:?} was not settled within {PATIENCE:?}").into());
                }
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}
