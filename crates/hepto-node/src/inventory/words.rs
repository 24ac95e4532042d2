//! A host's line split into words as Ansible does: Python's `shlex.split(line, comments=True)`, POSIX rules.

use std::ops::Range;

/// A word without its quotes, and where it stood with them, in bytes of the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The text.
    pub text: String,
    /// Its place.
    pub span: Range<usize>,
}

/// Why a line cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// A quote was opened and not closed.
    #[error("a quote is not closed")]
    Quote,
    /// A backslash at the very end.
    #[error("nothing follows the backslash")]
    Backslash,
}

#[derive(Clone, Copy)]
enum State {
    Between,
    Bare,
    Quoted(char),
    /// After a backslash, in the state that it interrupts.
    Escaped(Option<char>),
}

/// Splits a line; a `#` outside quotes ends it, even inside a word.
pub fn split(line: &str) -> Result<Vec<Word>, Unfinished> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut state = State::Between;
    for (at, character) in line.char_indices() {
        let open = |word: &mut Option<Word>| {
            word.get_or_insert_with(|| Word {
                text: String::new(),
                span: at..at,
            });
        };
        state = match (state, character) {
            (State::Between | State::Bare, '#') => break,
            (State::Between | State::Bare, ' ' | '\t' | '\r' | '\n') => {
                words.extend(word.take());
                State::Between
            }
            (State::Between | State::Bare, '\'' | '"') => {
                open(&mut word);
                State::Quoted(character)
            }
            (State::Between | State::Bare, '\\') => {
                open(&mut word);
                State::Escaped(None)
            }
            (State::Between | State::Bare, _) => {
                open(&mut word);
                push(&mut word, character);
                State::Bare
            }
            (State::Quoted(quote), _) if character == quote => State::Bare,
            (State::Quoted('"'), '\\') => State::Escaped(Some('"')),
            (State::Quoted(_), _) => {
                push(&mut word, character);
                state
            }
            (State::Escaped(None), _) => {
                push(&mut word, character);
                State::Bare
            }
            (State::Escaped(Some(quote)), _) => {
                if character != '\\' && character != quote {
                    push(&mut word, '\\');
                }
                push(&mut word, character);
                State::Quoted(quote)
            }
        };
        if let Some(word) = &mut word {
            word.span.end = at + character.len_utf8();
        }
    }
    match state {
        State::Quoted(_) => return Err(Unfinished::Quote),
        State::Escaped(_) => return Err(Unfinished::Backslash),
        State::Between | State::Bare => {}
    }
    words.extend(word);
    Ok(words)
}

fn push(word: &mut Option<Word>, character: char) {
    if let Some(word) = word {
        word.text.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<String> {
        split(line)
            .expect(line)
            .into_iter()
            .map(|word| word.text)
            .collect()
    }

    #[test]
    fn words_are_pythons() {
        assert_eq!(texts("a b=c  d\te"), ["a", "b=c", "d", "e"]);
        assert_eq!(texts(r#"a="b c" 'd e'f ''"#), ["a=b c", "d ef", ""]);
        assert_eq!(texts(r#"a\ b "c\"d\e" 'f\g'"#), ["a b", r#"c"d\e"#, r"f\g"]);
        assert_eq!(texts("a # b"), ["a"]);
        assert_eq!(texts("a=b#c d"), ["a=b"]);
        assert_eq!(texts("a='#' b"), ["a=#", "b"]);
        assert_eq!(texts(r#"x=["a","b"]"#), ["x=[a,b]"]);
        assert_eq!(texts(""), Vec::<String>::new());
    }

    #[test]
    fn places_cover_the_quotes() {
        let words = split("a 'b c' d").expect("words");
        assert_eq!(words[1].span, 2..7);
    }

    #[test]
    fn unfinished_lines_are_refused() {
        assert_eq!(split("a 'b"), Err(Unfinished::Quote));
        assert_eq!(split("a \"b\\"), Err(Unfinished::Backslash));
        assert_eq!(split("a \\"), Err(Unfinished::Backslash));
    }
}
