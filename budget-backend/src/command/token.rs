//! `budget-backend token`: who may use the API.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use budget_backend::access::token::{fingerprint, mint};
use budget_backend::access::{EVERY_ORG, Role};
use budget_backend::admin::Editor;
use budget_backend::admin::tokens::{self, NewToken, TokenRow};
use budget_backend::api::tokens::{check, view};
use budget_backend::config::DatabaseConfig;
use budget_backend::db;
use clap::{Args, Subcommand};
use serde_json::json;
use sqlx::PgPool;

use super::{complain, say, say_json, text};

/// Rows read at a time.
const PAGE_ROWS: i64 = 1_000;

/// Who the audit log names.
const ACTOR: &str = "budget-backend token";

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token. It is printed once, or written to a file that only its owner reads; the database keeps
    /// its hash.
    Create(CreateArguments),
    /// List the tokens, those taken back included.
    List {
        /// Print one JSON document instead of lines for people.
        #[arg(long)]
        json: bool,
    },
    /// Take a token back: every replica refuses it a moment later.
    Revoke {
        /// Its number, as `token list` tells it.
        token_id: i64,
    },
}

#[derive(Args)]
pub struct CreateArguments {
    /// Whose it is, or what for.
    #[arg(long)]
    name: String,
    /// What it may: admin, editor, viewer or data_plane (a filter).
    #[arg(long, value_parser = role)]
    role: Role,
    /// The org it is for: of an editor always, of a viewer unless it sees every org.
    #[arg(long)]
    org: Option<String>,
    /// The team it is for; without one the whole org.
    #[arg(long)]
    team: Option<String>,
    /// For how many days; without it until it is taken back.
    #[arg(long)]
    days: Option<i32>,
    /// Write it to this new file, readable by its owner alone, instead of printing it.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Print one JSON document instead of the token alone.
    #[arg(long)]
    json: bool,
}

fn role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| format!("expected one of {}", Role::ALL.map(Role::as_str).join(", ")))
}

/// `budget-backend token`.
pub fn token(config: &DatabaseConfig, command: TokenCommand) -> ExitCode {
    let done = match command {
        TokenCommand::Create(arguments) => create(config, arguments),
        TokenCommand::List { json } => list(config, json),
        TokenCommand::Revoke { token_id } => revoke(config, token_id),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((problem, code)) => complain(problem, code),
    }
}

fn on_database<T>(
    config: &DatabaseConfig,
    work: impl AsyncFnOnce(&PgPool) -> Result<T, String>,
) -> Result<T, (String, u8)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| (text(error), 1))?;
    let done = runtime.block_on(async {
        let pool = db::connect(config).await.map_err(text)?;
        work(&pool).await
    });
    done.map_err(|problem| (problem, 1))
}

fn create(config: &DatabaseConfig, arguments: CreateArguments) -> Result<(), (String, u8)> {
    let CreateArguments { name, role, org, team, days, file, json } = arguments;
    let new = check(name, role, (org, team), days)
        .map_err(|problem| (format!("--{problem}"), super::super::EXIT_USAGE))?;
    let none = || ("the system gives no random numbers".to_owned(), 1);
    let token = mint().ok_or_else(none)?;
    let hash = fingerprint(token.as_bytes()).ok_or_else(none)?;
    // Before the database knows it: a token that nobody has can't be used.
    if let Some(path) = &file {
        write(path, &token).map_err(|error| (format!("{}: {error}", path.display()), 1))?;
    }
    let made = on_database(config, async |pool| make(pool, &new, &hash).await);
    let row = made.inspect_err(|_| {
        if let Some(path) = &file {
            let _left = std::fs::remove_file(path);
        }
    })?;
    let told = if json {
        let mut document = serde_json::to_value(view(row)).map_err(|error| (text(error), 1))?;
        if file.is_none() {
            document["token"] = json!(token);
        }
        say_json(&document)
    } else {
        match &file {
            Some(path) => say(format!("token {} ({}) is in {}", row.token_id, row.name, path.display())),
            None => say(token),
        }
    };
    told.map_err(|problem| (problem, 1))
}

async fn make(pool: &PgPool, new: &NewToken, hash: &[u8; 32]) -> Result<TokenRow, String> {
    db::migrate(pool).await.map_err(text)?;
    let made = tokens::create(pool, &Editor::named(ACTOR), new, hash).await.map_err(text)?;
    made.ok_or_else(|| format!("{} tokens are good already; take some back", tokens::MAX_TOKENS))
}

/// Writes a file that did not exist and that only its owner reads.
fn write(path: &Path, token: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{token}")?;
    file.sync_all()
}

fn list(config: &DatabaseConfig, json: bool) -> Result<(), (String, u8)> {
    let rows = on_database(config, async |pool| {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let rows = tokens::page(pool, after, PAGE_ROWS).await.map_err(text)?;
            let Some(last) = rows.last() else { return Ok(all) };
            after = last.token_id;
            all.extend(rows);
        }
    })?;
    if json {
        let views: Vec<_> = rows.into_iter().map(view).collect();
        return say_json(&json!({ "tokens": views })).map_err(|problem| (problem, 1));
    }
    for row in rows {
        say(line(&row)).map_err(|problem| (problem, 1))?;
    }
    Ok(())
}

fn line(row: &TokenRow) -> String {
    let when = |at: Option<i64>| at.and_then(budget_backend::window::rfc3339);
    let state = match (when(row.revoked_at_unix_s), when(row.expires_at_unix_s)) {
        (Some(at), _) => format!("taken back {at}"),
        (None, Some(at)) => format!("until {at}"),
        (None, None) => "good".to_owned(),
    };
    let used =
        when(row.last_used_at_unix_s).map_or_else(|| "never used".to_owned(), |at| format!("used {at}"));
    format!(
        "{}  {}  {}  {}{}  {state}  {used}",
        row.token_id,
        row.name,
        row.role.as_str(),
        row.reach.org.as_deref().unwrap_or(EVERY_ORG),
        row.reach.team.as_ref().map_or_else(String::new, |team| format!("/{team}")),
    )
}

fn revoke(config: &DatabaseConfig, token_id: i64) -> Result<(), (String, u8)> {
    let revoked = on_database(config, async |pool| {
        tokens::revoke(pool, &Editor::named(ACTOR), token_id).await.map_err(text)
    })?;
    if revoked { Ok(()) } else { Err((format!("no token {token_id} is good"), 1)) }
}
