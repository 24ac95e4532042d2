//! Values as Ansible understands them: Python's `ast.literal_eval`, and where that fails, the text itself.

/// A value of an inventory.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// Text: quoted, or whatever is no literal.
    Text(String),
    /// A number, as it is written.
    Number(String),
    /// `True` or `False`.
    Truth(bool),
    /// `None`.
    Nothing,
    /// A list, tuple or set.
    List(Vec<Literal>),
    /// A dict.
    Dict(Vec<(Literal, Literal)>),
}

/// Parses a Python literal with an optional comment behind it. `None`: it is no literal, so it is plain text.
pub fn parse(text: &str) -> Option<Literal> {
    let mut cursor = Cursor {
        rest: text.trim_start_matches([' ', '\t']),
    };
    let first = cursor.value(0)?;
    let value = match cursor.peek() {
        // Without brackets, a comma makes a tuple.
        Some(',') => {
            let mut items = vec![first];
            while cursor.take(',') {
                if cursor.at_end() {
                    break;
                }
                items.push(cursor.value(0)?);
            }
            Literal::List(items)
        }
        _ => first,
    };
    cursor.at_end().then_some(value)
}

/// Nested deeper, it is no inventory's value; CPython gives up too, later.
const DEEPEST: usize = 32;

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn peek(&mut self) -> Option<char> {
        self.rest = self.rest.trim_start();
        if let Some(comment) = self.rest.strip_prefix('#') {
            self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
            return self.peek();
        }
        self.rest.chars().next()
    }

    fn at_end(&mut self) -> bool {
        self.peek().is_none()
    }

    fn take(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.rest = &self.rest[expected.len_utf8()..];
        }
        found
    }

    fn value(&mut self, depth: usize) -> Option<Literal> {
        if depth > DEEPEST {
            return None;
        }
        match self.peek()? {
            '[' => self
                .list('[', ']', depth)
                .map(|(items, _)| Literal::List(items)),
            '(' => {
                let (mut items, commas) = self.list('(', ')', depth)?;
                // Brackets around one value without a comma only group.
                if items.len() == 1 && !commas {
                    items.pop()
                } else {
                    Some(Literal::List(items))
                }
            }
            '{' => self.braces(depth),
            '\'' | '"' => self.strings(),
            '+' | '-' => {
                let sign = if self.take('-') {
                    "-"
                } else {
                    self.take('+').then_some("")?
                };
                self.peek()?;
                match self.word()? {
                    Literal::Number(number) => Some(Literal::Number(format!("{sign}{number}"))),
                    _ => None,
                }
            }
            'r' | 'R' | 'u' | 'U' if self.rest[1..].starts_with(['\'', '"']) => self.strings(),
            _ => self.word(),
        }
    }

    /// The items, and whether a comma stood among them.
    fn list(&mut self, open: char, close: char, depth: usize) -> Option<(Vec<Literal>, bool)> {
        self.take(open).then_some(())?;
        let (mut items, mut commas) = (Vec::new(), false);
        loop {
            if self.take(close) {
                return (!items.is_empty() || !commas).then_some((items, commas));
            }
            items.push(self.value(depth + 1)?);
            if self.take(',') {
                commas = true;
            } else if self.peek()? != close {
                return None;
            }
        }
    }

    fn braces(&mut self, depth: usize) -> Option<Literal> {
        self.take('{').then_some(())?;
        let (mut keys, mut pairs) = (Vec::new(), Vec::new());
        loop {
            if self.take('}') {
                return match (keys.is_empty(), pairs.is_empty()) {
                    (true, _) => Some(Literal::Dict(pairs)),
                    (false, true) => Some(Literal::List(keys)),
                    (false, false) => None,
                };
            }
            let key = self.value(depth + 1)?;
            if self.take(':') {
                pairs.push((key, self.value(depth + 1)?));
            } else {
                keys.push(key);
            }
            if !self.take(',') && self.peek()? != '}' {
                return None;
            }
        }
    }

    /// Strings beside one another are one; `r` before one keeps its backslashes, `u` means nothing.
    fn strings(&mut self) -> Option<Literal> {
        let mut text = String::new();
        loop {
            let rest = match self.peek() {
                Some('r' | 'R' | 'u' | 'U' | '\'' | '"') => self.rest,
                _ => return Some(Literal::Text(text)),
            };
            let raw = rest.starts_with(['r', 'R']);
            self.rest = rest.strip_prefix(['r', 'R', 'u', 'U']).unwrap_or(rest);
            let quote = self.next().filter(|quote| matches!(quote, '\'' | '"'))?;
            self.string(quote, raw, &mut text)?;
        }
    }

    fn string(&mut self, quote: char, raw: bool, text: &mut String) -> Option<()> {
        loop {
            let character = self.next()?;
            match character {
                '\n' => return None,
                '\\' if raw => text.extend([character, self.next()?]),
                '\\' => self.escape(text)?,
                _ if character == quote => return Some(()),
                _ => text.push(character),
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let next = characters.next()?;
        self.rest = characters.as_str();
        Some(next)
    }

    fn escape(&mut self, text: &mut String) -> Option<()> {
        let character = self.next()?;
        let code = match character {
            'x' => self.code(2, 16)?,
            'u' => self.code(4, 16)?,
            'U' => self.code(8, 16)?,
            '0'..='7' => {
                let digits = self
                    .rest
                    .bytes()
                    .take(2)
                    .take_while(|byte| (b'0'..=b'7').contains(byte))
                    .count();
                let first = character.to_digit(8)?;
                let rest = if digits == 0 {
                    0
                } else {
                    self.code(digits, 8)?
                };
                first << (3 * digits) | rest
            }
            _ => {
                match character {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'a' => text.push('\x07'),
                    'b' => text.push('\x08'),
                    'f' => text.push('\x0c'),
                    'v' => text.push('\x0b'),
                    '\\' | '\'' | '"' => text.push(character),
                    // Python keeps a backslash that means nothing.
                    _ => text.extend(['\\', character]),
                }
                return Some(());
            }
        };
        text.push(char::from_u32(code)?);
        Some(())
    }

    fn code(&mut self, digits: usize, radix: u32) -> Option<u32> {
        let (written, rest) = self.rest.split_at_checked(digits)?;
        let code = u32::from_str_radix(written, radix)
            .ok()
            .filter(|_| !written.starts_with('+'))?;
        self.rest = rest;
        Some(code)
    }

    fn word(&mut self) -> Option<Literal> {
        let bytes = self.rest.as_bytes();
        let hexadecimal = self.rest.starts_with("0x") || self.rest.starts_with("0X");
        let part_of = |index: usize, byte: u8| {
            let exponent = index > 0 && matches!(bytes[index - 1], b'e' | b'E') && !hexadecimal;
            byte.is_ascii_alphanumeric()
                || byte == b'_'
                || byte == b'.'
                || (exponent && matches!(byte, b'+' | b'-'))
        };
        let length = bytes
            .iter()
            .enumerate()
            .take_while(|(index, byte)| part_of(*index, **byte))
            .count();
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        match word {
            "True" => Some(Literal::Truth(true)),
            "False" => Some(Literal::Truth(false)),
            "None" => Some(Literal::Nothing),
            _ => is_number(word).then(|| Literal::Number(word.to_owned())),
        }
    }
}

/// Python's integers and floats, as they are written.
fn is_number(word: &str) -> bool {
    let digits = |text: &str, allowed: fn(&u8) -> bool| {
        let grouped = !text.starts_with('_') && !text.ends_with('_') && !text.contains("__");
        let only = text.bytes().all(|byte| byte == b'_' || allowed(&byte));
        !text.is_empty() && grouped && only
    };
    let decimal = |text: &str| digits(text, u8::is_ascii_digit);
    let based = |text: &str, allowed| digits(text.strip_prefix('_').unwrap_or(text), allowed);
    let lower = word.to_ascii_lowercase();
    match lower.get(..2) {
        Some("0x") => return based(&lower[2..], u8::is_ascii_hexdigit),
        Some("0o") => return based(&lower[2..], |byte| (b'0'..=b'7').contains(byte)),
        Some("0b") => return based(&lower[2..], |byte| matches!(byte, b'0' | b'1')),
        _ => {}
    }
    if decimal(&lower) {
        // Leading zeros are refused, but for zero itself.
        return !lower.starts_with('0') || lower.bytes().all(|byte| byte == b'0' || byte == b'_');
    }
    let (mantissa, exponent) = match lower.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (lower.as_str(), None),
    };
    let whole = |text: &str| text.is_empty() || decimal(text);
    let mantissa_is_sound = match mantissa.split_once('.') {
        Some((before, after)) => whole(before) && whole(after) && mantissa.len() > 1,
        None => decimal(mantissa) && exponent.is_some(),
    };
    mantissa_is_sound
        && exponent
            .is_none_or(|exponent| decimal(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<Literal> {
        Some(Literal::Text(text.to_owned()))
    }

    fn number(text: &str) -> Option<Literal> {
        Some(Literal::Number(text.to_owned()))
    }

    #[test]
    fn literals_are_pythons() {
        assert_eq!(parse("1400"), number("1400"));
        assert_eq!(parse("1400 # MTU convenu"), number("1400"));
        assert_eq!(parse("-5"), number("-5"));
        assert_eq!(parse("0x1F"), number("0x1F"));
        assert_eq!(parse("1_000"), number("1_000"));
        assert_eq!(parse("1.5e-3"), number("1.5e-3"));
        assert_eq!(parse("'a # b' # c"), text("a # b"));
        assert_eq!(parse(r#""a" 'b'"#), text("ab"));
        assert_eq!(parse(r#""\x41\n\101\q""#), text("A\nA\\q"));
        assert_eq!(parse("True"), Some(Literal::Truth(true)));
        assert_eq!(parse("None"), Some(Literal::Nothing));
        assert_eq!(parse("()"), Some(Literal::List(Vec::new())));
        assert_eq!(parse("('a')"), text("a"));
    }

    #[test]
    fn lists_may_end_in_a_comma_and_a_comment() {
        let list = Some(Literal::List(vec![
            Literal::Text("2001:2345::1".into()),
            Literal::Text("...".into()),
        ]));
        assert_eq!(parse(r#"["2001:2345::1","..."] # liste des ancres"#), list);
        assert_eq!(parse(r#"("2001:2345::1", "...",)"#), list);
        assert_eq!(parse(r#""2001:2345::1", "...""#), list);
        assert_eq!(
            parse("1,2"),
            Some(Literal::List(vec![
                Literal::Number("1".into()),
                Literal::Number("2".into())
            ]))
        );
    }

    #[test]
    fn what_is_no_literal_is_text() {
        let plain = [
            "",
            "root",
            "root # utilisateur",
            "/srv",
            "2001:1234::1/64,192.168.1.1/24",
            "192.168.1.254",
            "007",
            "1__0",
            "[a,b]",
            "'open",
            "[1",
            "1 2",
            "true",
            "0x",
            "1e",
            ".",
            "_1",
            "[,]",
            "{1: 2, 3}",
            "a=b",
            "--5",
        ];
        for written in plain {
            assert_eq!(parse(written), None, "{written}");
        }
        assert_eq!(parse(&"[".repeat(100_000)), None);
    }
}
