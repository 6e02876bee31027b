"""Views of clips in tests: other frames of a clip, or its mirror image, whose predictions are averaged.

Averaging softmax scores is usual when a model is tested on several views of a video (Feichtenhofer et al. 2019, "SlowFast
Networks for Video Recognition").
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from ucf50_tfrecord.dataset import segments
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.specs import MAX_VIEWS


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """A view of a clip. With the defaults, it is the clip as tests see it.

    stored: index of the view to read, if records hold features of several views; 0 is the clip as it is stored.
    part, num_parts: which frame of each segment is taken, if clips store more frames than the model takes; see
      segments.middles.
    is_mirrored: whether the frames are mirrored.
    """

    stored: int = 0
    part: int = 0
    num_parts: int = 1
    is_mirrored: bool = False

    def take(self, clips: tf.Tensor, num_frames: int) -> tf.Tensor:
        """Returns the view's frames of clips, [B, num_frames, ...] of the same dtype.

        Args:
          clips: the stored clips, uint8 [B, T, H, W, C], or the features of the view `stored`, [B, T, ...].
          num_frames: number of frames that the model takes.
        """
        frames = segments.take_middles(clips, num_frames, part=self.part, num_parts=self.num_parts)
        return tf.reverse(frames, axis=[3]) if self.is_mirrored else frames


PLAIN_VIEW = View()


def choose(
    count: int, *, num_stored_views: int, num_stored_frames: int, num_frames: int, mirrors: bool
) -> tuple[View, ...]:
    """Chooses the views whose predictions are averaged.

    If records hold several views, these are the first of them. If clips store more frames than the model takes, the
    views take frames at other places in each segment. Else, if training mirrors clips, they are the clip and its mirror
    image: a model that never saw mirrored clips need not know them.

    Args:
      count: number of views. 1 is the clip as tests see it.
      num_stored_views: number of views of each clip that records hold.
      num_stored_frames: frames per clip that are stored.
      num_frames: frames per clip that the model takes.
      mirrors: whether the model was trained on mirrored clips.

    Raises:
      UserError: if there are not as many views.
    """
    expect(1 <= count <= MAX_VIEWS, f"1 to {MAX_VIEWS} views", test_views=count)
    if count == 1:
        return (PLAIN_VIEW,)
    if num_stored_views > 1:
        expect(
            count <= num_stored_views,
            f"at most {num_stored_views} test_views, as many views as each clip's record holds",
            test_views=count,
        )
        return tuple(View(stored=index) for index in range(count))
    if num_stored_frames > num_frames:
        return tuple(View(part=part, num_parts=count) for part in range(count))
    if mirrors:
        expect(
            count == 2,
            "at most 2 test_views, the clip and its mirror image, as all frames are taken",
            test_views=count,
        )
        return PLAIN_VIEW, View(is_mirrored=True)
    raise UserError(
        "Expected several views of each clip, because test_views averages over them: stored views (feature_views), more "
        f"stored frames than the model takes (sample_frames), or training with horizontal_flip. Received: test_views={count}"
    )
