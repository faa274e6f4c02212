"""A launch_testing test of camera.launch.py with two cameras.

test_launch.py runs it; manually:

launch_test test/system/camera_end_to_end.py model:=model.onnx
"""

import time
import unittest

import launch_testing
import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_path
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_testing.actions import ReadyToTest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from launch import LaunchDescription
from lvad_perception.messages import image_to_message, make_header, ros_types
from lvad_perception.node.outputs import LATCHED_QOS
from lvad_perception.vocabulary import SEMANTIC

SIZE_HW = (90, 160)


def generate_test_description():
    launch_file = get_package_share_path("lvad_perception") / "launch" / "camera.launch.py"
    arguments = {"model": LaunchConfiguration("model"), "cameras": "front=/robot/image_raw rear"}
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", description="model file"),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(launch_file)), launch_arguments=arguments.items()
            ),
            ReadyToTest(),
        ]
    )


class TestCamera(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        rclpy.init()

    @classmethod
    def tearDownClass(cls):
        rclpy.shutdown()

    def setUp(self):
        self.node = rclpy.create_node("robot")
        self.camera = self.node.create_publisher(Image, "/robot/image_raw", 5)
        self.rear = self.node.create_publisher(Image, "/rear/image_raw", 5)
        self.image = np.random.default_rng(1).integers(0, 256, (*SIZE_HW, 3), dtype=np.uint8)

    def tearDown(self):
        self.node.destroy_node()

    def listen(self, topic, kind, qos=10):
        received = []
        self.node.create_subscription(kind, topic, received.append, qos)
        return received

    def message(self, stamp_s):
        header = make_header(stamp_s * 1_000_000_000 + 5, "camera_optical", types=ros_types())
        return image_to_message(self.image, header, types=ros_types())

    def publish_until(self, condition, message, *more, seconds=20.0):
        """Publish a message of the front camera, and ``more`` of the rear one, until the condition holds."""
        end_s = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end_s, "no result came"
            self.camera.publish(message)
            for other in more:
                self.rear.publish(other)
            rclpy.spin_once(self.node, timeout_sec=0.05)

    def test_image_becomes_results_with_its_stamp(self):
        results = [
            self.listen("/front/detections", Detection2DArray),
            self.listen("/front/segmentation", Image),
            self.listen("/front/segmentation/confidence", Image),
            self.listen("/front/drivable_area", Image),
        ]
        message = self.message(11)
        self.publish_until(lambda: all(results), message)
        for received in results:
            assert received[-1].header == message.header
        for mask in (received[0] for received in results[1:]):
            assert (mask.height, mask.width, mask.encoding, mask.step) == (*SIZE_HW, "mono8", SIZE_HW[1])

    def test_labels_are_there_for_who_comes_late(self):
        received = self.listen("/front/segmentation/label_info", LabelInfo, LATCHED_QOS)
        self.publish_until(lambda: received, self.message(1))
        assert tuple(entry.class_name for entry in received[0].class_map) == SEMANTIC.names

    def test_overlay_comes_on_subscription(self):
        received = self.listen("/front/overlay", Image)
        self.publish_until(lambda: received, self.message(12))
        assert received[0].encoding == "rgb8"
        assert received[0].header.stamp.sec == 12

    def test_corrupt_frame_is_skipped(self, proc_output):
        received = self.listen("/front/segmentation", Image)
        bad = self.message(13)
        bad.step = 1

        def reported():
            return any(b"frame stamped 13.000000005 skipped" in output.text for output in proc_output)

        self.publish_until(reported, bad)
        self.publish_until(lambda: received and received[-1].header.stamp.sec == 14, self.message(14))
        assert 13 not in {mask.header.stamp.sec for mask in received}

    def test_a_camera_that_dies_is_named_and_delays_none(self):
        front, rear = self.listen("/front/segmentation", Image), self.listen("/rear/segmentation", Image)
        statuses = self.listen("/diagnostics", DiagnosticArray)
        self.publish_until(lambda: front and rear, self.message(20), self.message(21))

        def named():
            rear_now = [status for array in statuses for status in array.status if status.name.endswith(": rear")]
            return rear_now and rear_now[-1].level == DiagnosticStatus.ERROR

        front.clear()
        self.publish_until(named, self.message(22))
        assert len(front) > 10
        assert front[-1].header.stamp.sec == 22

    def test_a_parameter_changes_while_frames_flow(self):
        received = self.listen("/front/detections", Detection2DArray)
        self.publish_until(lambda: received and received[-1].detections, self.message(30))
        client = self.node.create_client(SetParameters, "/perception/set_parameters")
        assert client.wait_for_service(timeout_sec=10.0)
        for threshold, boxes in ((1.0, False), (-1.0, True)):
            value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=threshold)
            request = SetParameters.Request(parameters=[Parameter(name="score_threshold", value=value)])
            answer = client.call_async(request)
            rclpy.spin_until_future_complete(self.node, answer, timeout_sec=10.0)
            assert answer.result().results[0].successful
            received.clear()
            self.publish_until(
                lambda boxes=boxes: received and bool(received[-1].detections) is boxes, self.message(31)
            )

    def test_a_bag_that_begins_again_goes_on(self):
        received = self.listen("/front/segmentation", Image)
        for second in (41, 42, 40, 41):
            self.publish_until(
                lambda second=second: received and received[-1].header.stamp.sec == second, self.message(second)
            )


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    def test_node_ends_with_status_0(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)

    def test_no_traceback(self, proc_output):
        text = b"".join(output.text for output in proc_output)
        assert b"Traceback" not in text
