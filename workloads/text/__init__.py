"""From text to block ids: a named tokenizer, a stated chat template, keyed chained hashes; the text is then dropped.

Readers of text logs and the recorder of a live server share these modules, so that both give a prompt the same ids
under the same key. No text, no token id and no name of a user or session may leave this package, not even in an error.
"""
