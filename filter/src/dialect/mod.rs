//! What each API's answers tell: one file per family. Every reader takes the text of one JSON object,
//! an event of a stream or a whole answer, and adds what matters to a [`Reading`].

mod anthropic;
mod bedrock;
mod chat;
mod cohere;
mod gemini;
mod media;
mod ollama;
mod responses;
#[cfg(test)]
mod tests;

use purser_protocol::Api;

use crate::api::Route;
use crate::chunk::Payload;
use crate::config::Dialect;
use crate::meter::Reading;

/// Reads the answers of one API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    api: Api,
    dialect: Dialect,
    is_speech: bool,
}

/// The member at the top of a JSON object is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotReadable;

/// What the readers of objects return.
type Read = Result<(), NotReadable>;

impl Reader {
    /// The reader for a route's answers.
    #[must_use]
    pub const fn new(route: &Route) -> Self {
        Self { api: route.api, dialect: route.dialect, is_speech: route.is_speech }
    }

    /// Whether a stream comes as JSON values one after the other, without events.
    #[must_use]
    pub const fn streams_values(self) -> bool {
        matches!(self.api, Api::GeminiGenerate | Api::Ollama | Api::CohereChat)
    }

    /// Whether an answer of this type is sound, whose cost follows from its request: it tells no tokens,
    /// and none are owed.
    #[must_use]
    pub fn is_sound(self, media_type: Option<&str>) -> bool {
        self.is_speech && media_type.is_some_and(|name| name.starts_with("audio/"))
    }

    /// Whether an event may be large: it carries the whole answer, or an image.
    #[must_use]
    pub const fn has_large_events(self) -> bool {
        matches!(self.api, Api::OpenaiResponses | Api::OpenaiImages | Api::GeminiGenerate)
    }

    /// Whether the size of an answer says nothing about its tokens: vectors, images, sound.
    #[must_use]
    pub const fn has_no_text(self) -> bool {
        matches!(
            self.api,
            Api::OpenaiEmbeddings
                | Api::GeminiEmbed
                | Api::CohereEmbed
                | Api::OllamaEmbed
                | Api::OpenaiImages
                | Api::OpenaiAudio
                | Api::Rerank
                | Api::OpenaiBatches
                | Api::AnthropicBatches
        )
    }

    /// Whether its events are those of OpenAI Chat, which may have to be edited.
    #[must_use]
    pub const fn is_chat(self) -> bool {
        matches!(self.api, Api::OpenaiChat | Api::OpenaiCompletions)
    }

    /// Takes in one event of a Chat stream.
    pub fn chat_event(self, payload: &Payload<'_>, reading: &mut Reading) -> Read {
        chat::event(payload, self.dialect, reading)
    }

    /// Takes in one event of a stream. `kind` names it where its frame does; `data` is its text.
    ///
    /// # Errors
    /// [`NotReadable`] when it is not a JSON object.
    pub fn event(self, kind: Option<&str>, data: &[u8], reading: &mut Reading) -> Read {
        if data.trim_ascii() == b"[DONE]" {
            reading.is_done = true;
            return Ok(());
        }
        let text = std::str::from_utf8(data).map_err(|_| NotReadable)?;
        let read = self.object(kind, text, false, reading);
        if read.is_ok() {
            reading.saw_readable = true;
        }
        read
    }

    /// Takes in a whole answer. Returns how many bytes of text were generated for it; nothing when that
    /// doesn't show.
    pub fn body(self, body: &[u8], reading: &mut Reading) -> Option<u64> {
        let text = std::str::from_utf8(body).ok()?;
        self.object(None, text, true, reading).ok()?;
        // In a whole answer it doesn't matter what stands first.
        reading.output_is_open &= !reading.output_was_told;
        reading.usage_is_final = true;
        reading.is_done = true;
        reading.saw_text.then_some(reading.output_bytes)
    }

    fn object(self, kind: Option<&str>, text: &str, is_whole: bool, reading: &mut Reading) -> Read {
        match self.api {
            Api::OpenaiChat | Api::OpenaiCompletions => {
                chat::event(&crate::chunk::read(text.as_bytes()), self.dialect, reading)
            }
            Api::OpenaiResponses if is_whole => responses::answer(text, reading),
            Api::OpenaiResponses => responses::event(text, reading),
            Api::AnthropicMessages if is_whole => anthropic::answer(text, reading),
            Api::AnthropicMessages => anthropic::event(text, reading),
            Api::GeminiGenerate => gemini::part(text, reading),
            Api::BedrockConverse => bedrock::converse(kind, text, reading),
            Api::BedrockInvoke if is_whole => bedrock::invoked(text, reading),
            Api::BedrockInvoke => bedrock::invoke_event(text, reading),
            Api::CohereChat => cohere::chat(text, reading),
            Api::Rerank => cohere::rerank(text, reading),
            Api::Ollama => ollama::part(text, reading),
            Api::OpenaiEmbeddings | Api::GeminiEmbed | Api::CohereEmbed | Api::OllamaEmbed => {
                media::embeddings(text, reading)
            }
            Api::OpenaiImages => media::images(text, is_whole, reading),
            Api::OpenaiAudio => media::audio(text, reading),
            Api::OpenaiBatches | Api::AnthropicBatches => media::batch(text, reading),
        }
    }
}
