//! The backend's configuration, read from the environment once. Every mistake is reported, not only
//! the first.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::alerts::AlertSettings;
use crate::db::SyncConfig;
use crate::maintain::Retention;
use crate::spool::SpoolSettings;
use crate::telemetry::OtlpEndpoint;

mod alerts;
mod listener;

pub use listener::ListenerConfig;

/// Shortest token accepted, bytes.
const MIN_TOKEN_BYTES: usize = 16;

/// How the database is reached.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// `DATABASE_URL`, for the async pool.
    pub checks: PgConnectOptions,
    /// The same URL, for the sync tracker.
    pub tracker: SyncConfig,
    /// `PURSER_DB_POOL_MIN`: connections kept open.
    pub pool_min: u32,
    /// `PURSER_DB_POOL_MAX`: most connections.
    pub pool_max: u32,
    /// `PURSER_DB_CONNECT_TIMEOUT_S`: how long start-up tries to reach the database.
    pub connect_timeout: Duration,
}

/// What is held for output.
#[derive(Debug, Clone, Copy)]
pub struct EstimateConfig {
    /// `PURSER_DEFAULT_OUTPUT_TOKENS`: output held for a request without a cap.
    pub default_output_tokens: u64,
    /// `PURSER_STRICT_OUTPUT_TOKENS`: the cap written into a request without one where a budget is
    /// strict.
    pub strict_output_tokens: u64,
    /// `PURSER_OUTPUT_PERCENTILE`: how many in a hundred recent answers the output held for a request
    /// without a cap shall suffice for; 100 is the longest seen.
    pub output_percentile: u8,
}

/// Everything the backend is told from outside.
#[derive(Clone)]
pub struct Config {
    /// How the database is reached.
    pub database: DatabaseConfig,
    /// `PURSER_LISTEN_ADDR`.
    pub listen_addr: SocketAddr,
    /// How requests come in.
    pub listener: ListenerConfig,
    /// Where settlements are kept while the database is away; nowhere when not set.
    pub spool: Option<SpoolSettings>,
    /// `PURSER_TOKEN`: what filters authenticate with.
    pub tokens: Vec<String>,
    /// `PURSER_ADMIN_TOKEN`: what operators authenticate with.
    pub admin_tokens: Vec<String>,
    /// `PURSER_HOLD_TTL_S`: how long a hold lives without a settlement.
    pub hold_ttl_s: i64,
    /// `PURSER_SWEEP_INTERVAL_MS`: how often expired holds are looked for.
    pub sweep_interval: Duration,
    /// `PURSER_SWEEP_GRACE_S`: how long after a (re)connection no hold is expired.
    pub sweep_grace: Duration,
    /// What is held for output.
    pub estimates: EstimateConfig,
    /// `PURSER_LANES`: batches of holds committed side by side.
    pub lanes: usize,
    /// `PURSER_OTLP_ENDPOINT`: where traces are sent; nowhere when not set.
    pub otlp: Option<OtlpEndpoint>,
    /// What is told to operators, when and how.
    pub alerts: AlertSettings,
    /// `PURSER_METRICS_ADDR`: where Prometheus scrapes `/metrics`; nowhere when not set.
    pub metrics_addr: Option<SocketAddr>,
    /// `PURSER_METRICS_BUDGETS`: how many budgets, the tightest, a scrape lists by name.
    pub metrics_budgets: i64,
    /// `PURSER_LEDGER_RETENTION_DAYS` and `PURSER_DENIAL_RETENTION_DAYS`: how long the ledger's detail and how
    /// long refusals are kept; 0 for ever.
    pub retention: Retention,
}

// By hand, so that no token and no password can reach a log.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("listen_addr", &self.listen_addr).finish_non_exhaustive()
    }
}

/// Every mistake found in the environment.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the environment has {} mistake(s):", self.0.len())?;
        for mistake in &self.0 {
            writeln!(f, "  {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

struct Reader<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).filter(|value| !value.is_empty())
    }

    fn mistake<T>(&mut self, name: &str, problem: impl fmt::Display) -> Option<T> {
        self.mistakes.push(format!("{name}: {problem}"));
        None
    }

    fn number<T: FromStr + PartialOrd + fmt::Display + Copy>(
        &mut self,
        name: &str,
        default: T,
        range: (T, T),
    ) -> Option<T> {
        let Some(text) = self.text(name) else {
            return Some(default);
        };
        match text.parse::<T>() {
            Ok(value) if value >= range.0 && value <= range.1 => Some(value),
            _ => self.mistake(
                name,
                format_args!("expected a whole number from {} to {}, got {text:?}", range.0, range.1),
            ),
        }
    }

    /// A month of detail at least, so that no budget's running month loses what it is checked against.
    fn retention(&mut self) -> Option<Retention> {
        let name = "PURSER_LEDGER_RETENTION_DAYS";
        let ledger_days = match self.number(name, 400, (0, 36_500)) {
            Some(days @ 1..32) => {
                self.mistake(name, format_args!("expected 0 (for ever) or at least 32, got {days}"))
            }
            days => days,
        };
        let denial_days = self.number("PURSER_DENIAL_RETENTION_DAYS", 90, (0, 36_500));
        Some(Retention { ledger_days: ledger_days?, denial_days: denial_days? })
    }

    fn url(&mut self) -> Option<(PgConnectOptions, SyncConfig)> {
        let Some(url) = self.text("DATABASE_URL") else { return self.mistake("DATABASE_URL", "is required") };
        // The URL is never echoed: it holds a password.
        let expected = "expected postgres://user:password@host:port/database";
        match (url.parse::<PgConnectOptions>(), url.parse::<SyncConfig>()) {
            (Ok(pool), Ok(tracker)) => Some((pool, tracker)),
            (Err(error), _) => self.mistake("DATABASE_URL", format_args!("{expected}: {error}")),
            (_, Err(error)) => self.mistake("DATABASE_URL", format_args!("{expected}: {error}")),
        }
    }

    fn database(&mut self) -> Option<DatabaseConfig> {
        let url = self.url();
        let pool_min = self.number("PURSER_DB_POOL_MIN", 10, (0, 1_000));
        let pool_max = self.number("PURSER_DB_POOL_MAX", 30, (1, 1_000));
        if let (Some(min), Some(max)) = (pool_min, pool_max)
            && min > max
        {
            let problem = format!("is {min}, more than PURSER_DB_POOL_MAX ({max})");
            self.mistake::<()>("PURSER_DB_POOL_MIN", problem);
        }
        let connect_timeout_s = self.number("PURSER_DB_CONNECT_TIMEOUT_S", 60, (0, 86_400));
        let (checks, tracker) = url?;
        Some(DatabaseConfig {
            checks,
            tracker,
            pool_min: pool_min?,
            pool_max: pool_max?,
            connect_timeout: Duration::from_secs(connect_timeout_s?),
        })
    }

    fn estimates(&mut self) -> Option<EstimateConfig> {
        let default_output_tokens = self.number("PURSER_DEFAULT_OUTPUT_TOKENS", 1_024, (1, 10_000_000));
        let strict_output_tokens = self.number("PURSER_STRICT_OUTPUT_TOKENS", 4_096, (1, 10_000_000));
        let output_percentile = self.number("PURSER_OUTPUT_PERCENTILE", 95, (50, 100));
        Some(EstimateConfig {
            default_output_tokens: default_output_tokens?,
            strict_output_tokens: strict_output_tokens?,
            output_percentile: output_percentile?,
        })
    }

    /// What was read, unless there were mistakes.
    fn finish<T>(self, read: Option<T>) -> Result<T, ConfigErrors> {
        match read {
            Some(read) if self.mistakes.is_empty() => Ok(read),
            _ => Err(ConfigErrors(self.mistakes)),
        }
    }
}

/// A variable of the process's environment.
fn from_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl DatabaseConfig {
    /// Reads what a command needs that only touches the database.
    ///
    /// # Errors
    /// [`ConfigErrors`], with every mistake.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        let mut reader = Reader { get: &from_env, mistakes: Vec::new() };
        let read = reader.database();
        reader.finish(read)
    }
}

impl EstimateConfig {
    /// Reads what a command needs that estimates as the service does.
    ///
    /// # Errors
    /// [`ConfigErrors`], with every mistake.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        let mut reader = Reader { get: &from_env, mistakes: Vec::new() };
        let read = reader.estimates();
        reader.finish(read)
    }
}

impl Config {
    /// Reads the configuration from the process's environment.
    ///
    /// # Errors
    /// [`ConfigErrors`], with every mistake.
    pub fn from_env() -> Result<Self, ConfigErrors> {
        Self::read(&from_env)
    }

    /// Reads the configuration through `get`.
    ///
    /// # Errors
    /// [`ConfigErrors`], with every mistake.
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigErrors> {
        let mut reader = Reader { get, mistakes: Vec::new() };
        let config = Self::parse(&mut reader);
        reader.finish(config)
    }

    fn parse(reader: &mut Reader<'_>) -> Option<Self> {
        let database = reader.database();
        let tokens = reader.tokens("PURSER_TOKEN");
        let admin_tokens = reader.tokens("PURSER_ADMIN_TOKEN");
        if let (Some(tokens), Some(operators)) = (&tokens, &admin_tokens)
            && tokens.iter().any(|token| operators.contains(token))
        {
            reader.mistake::<()>("PURSER_ADMIN_TOKEN", "must differ from PURSER_TOKEN");
        }
        let listen_addr = match reader.text("PURSER_LISTEN_ADDR") {
            None => Some(SocketAddr::from(([127, 0, 0, 1], 8088))),
            Some(text) => match text.parse() {
                Ok(addr) => Some(addr),
                Err(_) => {
                    reader.mistake("PURSER_LISTEN_ADDR", format_args!("expected IP:PORT, got {text:?}"))
                }
            },
        };
        let metrics_addr = match reader.text("PURSER_METRICS_ADDR") {
            None => Some(None),
            Some(text) => match text.parse() {
                Ok(addr) => Some(Some(addr)),
                Err(_) => {
                    reader.mistake("PURSER_METRICS_ADDR", format_args!("expected IP:PORT, got {text:?}"))
                }
            },
        };
        let otlp = match reader.text("PURSER_OTLP_ENDPOINT").map(|text| OtlpEndpoint::parse(&text)) {
            None => Some(None),
            Some(Ok(endpoint)) => Some(Some(endpoint)),
            Some(Err(problem)) => reader.mistake("PURSER_OTLP_ENDPOINT", problem),
        };
        let metrics_budgets = reader.number("PURSER_METRICS_BUDGETS", 200, (0, 10_000));
        let listener = reader.listener();
        let spool = reader.spool();
        let alerts = reader.alerts();
        let hold_ttl_s = reader.number("PURSER_HOLD_TTL_S", 900, (1, 604_800));
        let sweep_interval_ms = reader.number("PURSER_SWEEP_INTERVAL_MS", 5_000, (10, 3_600_000));
        let sweep_grace_s = reader.number("PURSER_SWEEP_GRACE_S", 60, (0, 86_400));
        let estimates = reader.estimates();
        let lanes = reader.number("PURSER_LANES", 4, (1, 64));
        let retention = reader.retention();
        if let (Some(database), Some(lanes)) = (&database, lanes)
            && lanes >= usize::try_from(database.pool_max).unwrap_or(usize::MAX)
        {
            let problem = format!(
                "is {lanes}; each lane keeps a connection, and PURSER_DB_POOL_MAX ({}) must leave some over",
                database.pool_max
            );
            reader.mistake::<()>("PURSER_LANES", problem);
        }
        Some(Self {
            database: database?,
            listen_addr: listen_addr?,
            listener: listener?,
            spool: spool?,
            tokens: tokens?,
            admin_tokens: admin_tokens?,
            hold_ttl_s: hold_ttl_s?,
            sweep_interval: Duration::from_millis(sweep_interval_ms?),
            sweep_grace: Duration::from_secs(sweep_grace_s?),
            estimates: estimates?,
            lanes: lanes?,
            otlp: otlp?,
            alerts: alerts?,
            metrics_addr: metrics_addr?,
            metrics_budgets: metrics_budgets?,
            retention: retention?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Config::read(&move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
    }

    pub(super) const GOOD: [(&str, &str); 3] = [
        ("DATABASE_URL", "postgres://u:p@127.0.0.1:5432/purser"),
        ("PURSER_TOKEN", "0123456789abcdef"),
        ("PURSER_ADMIN_TOKEN", "fedcba9876543210"),
    ];

    #[test]
    fn three_variables_suffice() {
        let config = read(&GOOD).unwrap();
        assert_eq!(config.listen_addr.to_string(), "127.0.0.1:8088");
        assert_eq!((config.database.pool_min, config.database.pool_max, config.hold_ttl_s), (10, 30, 900));
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let ConfigErrors(mistakes) = read(&[
            ("DATABASE_URL", "mysql//x"),
            ("PURSER_TOKEN", "short"),
            ("PURSER_LISTEN_ADDR", "localhost"),
            ("PURSER_DB_POOL_MIN", "40"),
            ("PURSER_METRICS_ADDR", "9464"),
            ("PURSER_OTLP_ENDPOINT", "collector:4317"),
            ("PURSER_ALERT_PERCENTS", "80,50"),
            ("PURSER_ALERT_SPIKE_USD", "0"),
            ("PURSER_WEBHOOK_PRIVATE", "yes"),
            ("PURSER_HOLD_TTL_S", "15m"),
            ("PURSER_OUTPUT_PERCENTILE", "49"),
            ("PURSER_LANES", "0"),
            ("PURSER_LEDGER_RETENTION_DAYS", "31"),
            ("PURSER_DENIAL_RETENTION_DAYS", "-1"),
        ])
        .unwrap_err();
        let named: Vec<&str> = mistakes.iter().filter_map(|mistake| mistake.split(':').next()).collect();
        assert_eq!(
            named,
            [
                "DATABASE_URL",
                "PURSER_DB_POOL_MIN",
                "PURSER_TOKEN",
                "PURSER_ADMIN_TOKEN",
                "PURSER_LISTEN_ADDR",
                "PURSER_METRICS_ADDR",
                "PURSER_OTLP_ENDPOINT",
                "PURSER_ALERT_PERCENTS",
                "PURSER_ALERT_SPIKE_USD",
                "PURSER_WEBHOOK_PRIVATE",
                "PURSER_HOLD_TTL_S",
                "PURSER_OUTPUT_PERCENTILE",
                "PURSER_LANES",
                "PURSER_LEDGER_RETENTION_DAYS",
                "PURSER_DENIAL_RETENTION_DAYS"
            ]
        );
        assert!(mistakes[10].contains("got \"15m\""), "{}", mistakes[10]);
    }

    #[test]
    fn one_token_can_t_serve_both() {
        let mut pairs = GOOD;
        pairs[2].1 = GOOD[1].1;
        let ConfigErrors(mistakes) = read(&pairs).unwrap_err();
        assert_eq!(mistakes, ["PURSER_ADMIN_TOKEN: must differ from PURSER_TOKEN"]);
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?}", read(&GOOD).unwrap());
        assert!(!text.contains("0123456789abcdef") && !text.contains("postgres"), "{text}");
    }
}
