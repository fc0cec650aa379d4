"""Near-duplicate texts by MinHash and locality-sensitive hashing (LSH), in time that grows with their number, not with
the number of pairs.

Two texts are near-duplicates when their sets of 5-character shingles (after case, width, punctuation and
white space were evened out) have a Jaccard similarity of at least 0.8. Candidates come from MinHash
signatures in bands: a pair at the threshold is missed about once in 20 million, one further above practically
never. Candidates are then measured exactly. In files of one template with small differences, where a text
has hundreds of candidates, only some are looked at, and after 20 measurements in vain the estimate decides.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lorica.data.union_find import UnionFind

_Hashes = npt.NDArray[np.uint32]

THRESHOLD = 0.8
SHINGLE = 5
MAX_CHARACTERS = 4000
"""Only so much of a normalised text is shingled; texts that agree so far are compared on this part."""

_BANDS, _BAND_ROWS = 32, 4
_CHUNK = 1 << 18  # shingles hashed at a time, to stay within the processor's caches
_NEIGHBOURS = 12  # candidates on either side that a text is compared with, in each band's bucket
_MARGIN = 0.2  # a pair at the threshold looks so much less alike once in 10^7 (the estimate's deviation is 0.035)
_MAX_FAILED_CHECKS = 20  # pairs of a text measured exactly in vain, after which the estimate alone decides
_FEWEST_WORDS = 4  # in which an order can be another one and the text still the same
_ASCII = {code: " " for code in range(128) if not chr(code).isalnum()}


def normalise_text(text: str) -> str:
    """Letters, marks and digits in compatibility form and lower case, with one space for anything between them;
    characters that nobody sees (soft hyphens, zero-width marks, variation selectors) are left out, and part no word.

    A text without any of these (emoji alone, say) stays as it is, without the white space around it.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():  # the same, ten times as fast
        return " ".join(folded.translate(_ASCII).split()) or text.strip()
    spaced = "".join(map(_normalised, folded))
    return " ".join(spaced.split()) or text.strip()


def _normalised(char: str) -> str:
    if char.isalnum():
        return char
    category = unicodedata.category(char)
    if category == "Cf" or "\ufe00" <= char <= "\ufe0f":
        return ""
    return char if category[0] == "M" else " "


def text_digest(text: str) -> str:
    """What texts have in common that are equal after normalisation; "" for an empty one."""
    normalised = normalise_text(text)
    return _digest(normalised).hex() if normalised else ""


def _digest(normalised: str) -> bytes:
    return hashlib.blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shingles(text: str) -> _Hashes:
    """Sorted distinct hashes [n] of the 5-character pieces of a normalised text (of the whole when it is shorter)."""
    code_points = np.frombuffer(text[:MAX_CHARACTERS].encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    code_points = code_points.astype(np.uint64)
    length = min(SHINGLE, len(code_points))
    pieces = np.full(len(code_points) - length + 1, length, dtype=np.uint64)
    for offset in range(length):
        pieces = (pieces ^ code_points[offset : offset + len(pieces)]) * np.uint64(0x9E3779B97F4A7C15)
        pieces ^= pieces >> np.uint64(29)
    hashes = (pieces >> np.uint64(32)).astype(np.uint32)
    hashes.sort()
    return hashes[np.concatenate(([True], hashes[1:] != hashes[:-1]))]


def jaccard(first: _Hashes, second: _Hashes) -> float:
    """Size of the intersection over size of the union of two sorted sets."""
    common_count = len(np.intersect1d(first, second, assume_unique=True))
    return common_count / (len(first) + len(second) - common_count)


def join_near_duplicates(texts: Sequence[str], union_find: UnionFind) -> None:
    """Join the indices of equal and nearly equal texts in `union_find`. Empty texts are like no other."""
    index_by_digest: dict[bytes, int] = {}
    distinct: list[int] = []
    shingle_sets: list[_Hashes] = []
    for text_index, text in enumerate(texts):
        normalised = normalise_text(text)
        if not normalised:
            continue
        earlier = index_by_digest.setdefault(_digest(normalised), text_index)
        if earlier != text_index:
            union_find.join(earlier, text_index)
        else:
            distinct.append(text_index)
            shingle_sets.append(shingles(normalised))
    if not shingle_sets:
        return
    _join_candidates(_signatures(shingle_sets), distinct, shingle_sets, union_find)


def join_rewritten(texts: Sequence[str], union_find: UnionFind) -> None:
    """Join the indices of near-duplicates, and of texts of the same words in another order: a model that was trained on
    one knows the other. Of fewer than four words only near-duplicates are joined."""
    join_near_duplicates(texts, union_find)
    first_of_words: dict[str, int] = {}
    for text_index, text in enumerate(texts):
        words = sorted(normalise_text(text).split())
        if len(words) >= _FEWEST_WORDS:
            union_find.join(first_of_words.setdefault(" ".join(words), text_index), text_index)


def _join_candidates(
    signatures: _Hashes, distinct: Sequence[int], shingle_sets: Sequence[_Hashes], union_find: UnionFind
) -> None:
    """Compute the Jaccard similarity of pairs that share an LSH band, and join those at the threshold.

    distinct: index in `union_find` of each text."""
    failed_checks = np.zeros(len(shingle_sets), dtype=np.int32)  # exact measurements that were in vain, by text
    rejected_pairs: set[int] = set()  # the pairs of these measurements: they meet again in other bands
    for first_hash in range(0, _BANDS * _BAND_ROWS, _BAND_ROWS):
        order, bucket = _buckets(signatures[:, first_hash : first_hash + _BAND_ROWS])
        roots = np.array([union_find.find(text_index) for text_index in distinct])
        for distance in range(1, _NEIGHBOURS + 1):
            same_bucket = np.flatnonzero(bucket[distance:] == bucket[:-distance])
            if not len(same_bucket):
                break
            firsts, seconds = order[same_bucket], order[same_bucket + distance]
            not_joined = roots[firsts] != roots[seconds]
            firsts, seconds = firsts[not_joined], seconds[not_joined]
            estimates = _estimated_jaccard(signatures, firsts, seconds)
            exhausted = np.maximum(failed_checks[firsts], failed_checks[seconds]) >= _MAX_FAILED_CHECKS
            candidates = np.flatnonzero(estimates >= np.where(exhausted, THRESHOLD, THRESHOLD - _MARGIN))
            for pair_index in candidates.tolist():
                first, second = int(firsts[pair_index]), int(seconds[pair_index])
                if union_find.find(distinct[first]) == union_find.find(distinct[second]):
                    continue
                pair_key = min(first, second) * len(shingle_sets) + max(first, second)
                if pair_key in rejected_pairs:
                    continue
                if exhausted[pair_index] or jaccard(shingle_sets[first], shingle_sets[second]) >= THRESHOLD:
                    union_find.join(distinct[first], distinct[second])
                else:
                    rejected_pairs.add(pair_key)
                    failed_checks[first] += 1
                    failed_checks[second] += 1


def _estimated_jaccard(
    signatures: _Hashes, firsts: npt.NDArray[np.intp], seconds: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """The share of equal MinHash values of each pair [pairs]: an estimate of their Jaccard similarity."""
    result = np.empty(len(firsts))
    for first_pair in range(0, len(firsts), 8192):  # a slice at a time: the gathered signatures are large
        window = slice(first_pair, first_pair + 8192)
        result[window] = (signatures[firsts[window]] == signatures[seconds[window]]).mean(axis=1)
    return result


def _signatures(shingle_sets: Sequence[_Hashes]) -> _Hashes:
    """MinHash signatures [texts, bands x band rows]: per hash function the smallest value over a text's shingles."""
    functions = np.random.default_rng(0).integers(0, 2**32, size=(2, _BANDS * _BAND_ROWS), dtype=np.uint32)
    result = np.empty((len(shingle_sets), _BANDS * _BAND_ROWS), dtype=np.uint32)
    first_text = 0
    while first_text < len(shingle_sets):
        stop, shingle_count = first_text, 0
        while stop < len(shingle_sets) and (shingle_count == 0 or shingle_count + len(shingle_sets[stop]) <= _CHUNK):
            shingle_count += len(shingle_sets[stop])
            stop += 1
        joined_hashes = np.concatenate(shingle_sets[first_text:stop])
        starts = np.cumsum([0] + [len(shingle_set) for shingle_set in shingle_sets[first_text : stop - 1]])
        for function_index, (hash_mask, factor) in enumerate(functions.T):
            mixed_hashes = (joined_hashes ^ hash_mask) * (factor | np.uint32(1))
            mixed_hashes ^= mixed_hashes >> np.uint32(15)
            mixed_hashes *= np.uint32(0x2C1B3C6D)
            mixed_hashes ^= mixed_hashes >> np.uint32(13)
            result[first_text:stop, function_index] = np.minimum.reduceat(mixed_hashes, starts)
        first_text = stop
    return result


def _buckets(band: _Hashes) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """(texts in an order that puts those with equal rows of `band` [texts, band rows] side by side, bucket of each)."""
    bucket_keys = np.zeros(len(band), dtype=np.uint64)
    for hash_column in band.T:
        bucket_keys = (bucket_keys ^ hash_column) * np.uint64(0x9E3779B97F4A7C15)
        bucket_keys ^= bucket_keys >> np.uint64(32)
    _, bucket = np.unique(bucket_keys, return_inverse=True)
    order = np.argsort(bucket, kind="stable")
    return order, bucket[order]
